"""Palimpsest: decide what a neural network learns, keeps and forgets, and prove that it did."""

from importlib.metadata import version

__version__ = version("palimpsest")

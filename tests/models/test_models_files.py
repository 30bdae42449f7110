import errno
import json
import os
import re
import stat

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    PreTrainedModel,
    XLMConfig,
    XLMWithLMHeadModel,
)
from transformers.utils import logging

from palimpsest.errors import UserError
from palimpsest.models.adapters import add_lora
from palimpsest.models.files import load, save
from palimpsest.models.language import causal_lm, encoder_decoder_lm, masked_lm, seeded
from palimpsest.models.output_folders import check_out, tidy
from palimpsest.models.tokenizers import word_tokenizer
from palimpsest.models.vision import cnn, mlp, vit

TOKENIZER = word_tokenizer(["sky", "is", "blue"])
SIZES = {"d_model": 16, "n_layers": 1, "n_heads": 2}


def lm(seed=0, **settings):
    return causal_lm(len(TOKENIZER), **SIZES, seed=seed, **settings)


@pytest.fixture
def folder(tmp_path):
    save(lm(), TOKENIZER, tmp_path / "model")
    return tmp_path / "model"


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def edit_config(folder, name="config.json", **changes):
    config = json.loads((folder / name).read_text())
    config.update(changes)
    (folder / name).write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


# Load


@pytest.mark.parametrize(
    ("task", "build"),
    [
        ("causal", lm),
        ("causal", lambda: lm(architecture="gpt2")),
        ("causal", lambda: lm(tie=False)),
        ("masked", lambda: masked_lm(len(TOKENIZER), **SIZES)),
        ("seq2seq", lambda: encoder_decoder_lm(len(TOKENIZER), **SIZES)),
    ],
)
def test_round_trip(task, build, tmp_path):
    model = build()
    save(model, TOKENIZER, tmp_path / "model")
    again, tokenizer = load(tmp_path / "model", task=task)
    assert type(again) is type(model)
    assert same_weights(model, again)
    assert not again.training
    assert tokenizer("sky is blue").input_ids == TOKENIZER("sky is blue").input_ids
    names = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert "model.safetensors" in names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("build", [lambda: mlp(norm="batch"), lambda: cnn(norm="layer"), vit])
def test_round_trip_of_images(build, tmp_path):
    model, x = build(), torch.rand(4, 1, 8, 8)
    model(x)  # moves batch norm's running statistics away from their start
    save(model, None, tmp_path / "model")
    again, tokenizer = load(str(tmp_path / "model"), task="image")
    assert tokenizer is None
    assert same_weights(model, again)
    model.eval()
    torch.testing.assert_close(again(x).logits, model(x).logits)
    torch.testing.assert_close(again.features(x), model.features(x))
    plain = AutoModelForImageClassification.from_pretrained(tmp_path / "model", local_files_only=True)
    torch.testing.assert_close(plain(pixel_values=x).logits, model(x).logits)


def test_shards(tmp_path):
    model = lm()
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    TOKENIZER.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert same_weights(load(tmp_path)[0], model)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_take_the_dtype_asked_for(dtype, tmp_path):
    model = lm().bfloat16()
    save(model, TOKENIZER, tmp_path / "model")
    again = load(tmp_path / "model", dtype=dtype)[0]
    assert {parameter.dtype for parameter in again.parameters()} == {getattr(torch, dtype)}
    assert torch.equal(again.lm_head.weight.float(), model.lm_head.weight.to(getattr(torch, dtype)).float())


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder"):
        load(tmp_path / "nowhere")


def test_missing_or_broken_config(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        load(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(UserError, match="JSON object, got list"):
        load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"no config\.json"):
        load(folder)


def test_unknown_architecture(folder):
    edit_config(folder, model_type="nonesuch")
    with pytest.raises(UserError, match=r"cannot load the model in .*nonesuch"):
        load(folder)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_pickled_weights_are_never_opened(folder, tmp_path):
    trap = tmp_path / "sprung"
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Bomb(str(trap))}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pickled weights only \(pytorch_model\.bin\).*save_pretrained"):
        load(folder)
    assert not trap.exists()


def test_pickled_weights_beside_safetensors_are_not_read(folder, tmp_path):
    trap = tmp_path / "sprung"
    torch.save({"weight": Bomb(str(trap))}, folder / "pytorch_model.bin")
    assert same_weights(load(folder)[0], lm())
    assert not trap.exists()


def test_missing_and_broken_weights(folder):
    (folder / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="cannot load the model in"):
        load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no weights: model\.safetensors is missing"):
        load(folder)


def test_the_wrong_task(folder, tmp_path):
    save(masked_lm(len(TOKENIZER), **SIZES), TOKENIZER, tmp_path / "bert")
    with pytest.raises(UserError, match="holds BertForMaskedLM, which is not a causal language model"):
        load(tmp_path / "bert")
    with pytest.raises(UserError, match="holds BertForMaskedLM"):
        load(tmp_path / "bert", remote_code=True)
    with pytest.raises(UserError, match="holds LlamaForCausalLM, which is not a sequence-to-sequence model"):
        load(folder, task="seq2seq")
    with pytest.raises(UserError, match="not an image classifier"):
        load(folder, task="image")
    # Without the class in the configuration, the weights tell.
    edit_config(tmp_path / "bert", architectures=None, is_decoder=True)
    edit_config(folder, architectures=None)
    assert same_weights(load(folder)[0], lm())


def test_a_body_without_a_head(tmp_path):
    model = lm(tie=False)
    model.model.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="holds LlamaModel"):
        load(tmp_path)
    edit_config(tmp_path, architectures=None)
    with pytest.raises(UserError, match=r"lacks 1 weights of a causal language model, the first is lm_head\.weight"):
        load(tmp_path)


def test_missing_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(UserError, match=r"no tokenizer \(tokenizer\.json is missing\)"):
        load(folder)


@pytest.mark.parametrize("name", ["tokenizer.model", "spiece.model"])
def test_a_tokenizer_of_sentencepiece_alone_names_the_library(folder, monkeypatch, name):
    monkeypatch.setattr("palimpsest.models.loading_checks.find_spec", lambda library: None)
    (folder / "tokenizer.json").unlink()
    (folder / name).write_bytes(b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\2")
    with pytest.raises(UserError, match=f"its tokenizer as {name} alone, .* pip install sentencepiece"):
        load(folder)


def test_broken_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="cannot load the tokenizer in"):
        load(folder)


def test_a_tokenizer_that_panics_is_named(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    text = {"Sequence": {"id": "A", "type_id": 0}}
    single = [{"SpecialToken": {"id": "[X]", "type_id": 0}}, text]  # which no special token is
    pair = [text, {"Sequence": {"id": "B", "type_id": 1}}]
    template = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": {}}
    (folder / "tokenizer.json").write_text(json.dumps({**content, "post_processor": template}))
    with pytest.raises(UserError, match=r"cannot load the tokenizer in .*: no entry found for key"):
        load(folder)


def test_a_setting_of_the_tokenizer_of_a_wrong_kind_is_found_when_it_is_loaded(folder):
    edit_config(folder, "tokenizer_config.json", model_max_length=[])
    with pytest.raises(UserError, match="cannot load the tokenizer in"):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_remote_code_does_not_run(name, folder, tmp_path):
    trap = tmp_path / "sprung"
    (folder / "evil.py").write_text(f"open({str(trap)!r}, 'w')\n")
    edit_config(folder, name, auto_map={"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"})
    with pytest.raises(UserError, match=rf"its own code \(auto_map in {name}\): pass remote_code"):
        load(folder)
    assert not trap.exists()


def test_remote_code_runs_where_it_may(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    (folder / "mine.py").write_text(
        "from transformers import LlamaForCausalLM\n\n\nclass Mine(LlamaForCausalLM):\n    mark = 'mine'\n"
    )
    edit_config(folder, auto_map={"AutoModelForCausalLM": "mine.Mine"}, architectures=["Mine"])
    assert load(folder, remote_code=True)[0].mark == "mine"


@pytest.fixture
def adapter(folder, tmp_path):
    """A folder with an adapter whose matrices are not zero, on the model in `folder`."""
    model, _ = load(folder)
    model.name_or_path = str(folder)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_B" in name:
                p.normal_(generator=torch.Generator().manual_seed(0))
    out = tmp_path / "adapter"
    adapted.save_pretrained(out)
    return out


def test_an_adapter_is_loaded_on_its_base_and_saved_alone(adapter, folder, tmp_path):
    plain, tokenizer = load(folder)
    model, own = load(adapter)
    ids = torch.tensor([[1, 4, 5]])
    logits = model(ids).logits
    assert not torch.allclose(plain(ids).logits, logits)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        name for name, _ in model.named_parameters() if "lora" in name
    }
    assert own.get_vocab() == tokenizer.get_vocab()
    save(model, own, tmp_path / "again")
    assert not (tmp_path / "again" / "model.safetensors").exists()
    assert torch.equal(load(tmp_path / "again")[0](ids).logits, logits)
    save(model, own, tmp_path / "again", force=True)


def test_an_adapter_can_be_merged(adapter):
    ids = torch.tensor([[1, 4, 5]])
    merged, _ = load(adapter, merge_adapter=True)
    assert isinstance(merged, PreTrainedModel)
    assert all(p.requires_grad for p in merged.parameters())
    torch.testing.assert_close(merged(ids).logits, load(adapter)[0](ids).logits)


def test_an_adapters_base_may_be_named_from_its_own_folder(adapter, folder):
    edit_config(adapter, "adapter_config.json", base_model_name_or_path=os.path.relpath(folder, adapter))
    load(adapter)


def test_bad_adapters(adapter):
    with pytest.raises(UserError, match="only those of causal"):
        load(adapter, task="masked")
    edit_config(adapter, "adapter_config.json", base_model_name_or_path="meta/nowhere")
    with pytest.raises(UserError, match=r"base model 'meta/nowhere' .* is not on this disk"):
        load(adapter)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(UserError, match=r"no adapter_model.safetensors"):
        load(adapter)


def test_damaged_weights_of_an_adapter_are_named(adapter):
    weights = adapter / "adapter_model.safetensors"
    for content in (b"", weights.read_bytes()[:-5]):
        weights.write_bytes(content)
        with pytest.raises(UserError, match="cannot load the adapter in"):
            load(adapter)


def test_errors_are_one_line(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_unknown_names(folder):
    with pytest.raises(ValueError, match="'classify'"):
        load(folder, task="classify")
    with pytest.raises(ValueError, match="'int8'"):
        load(folder, dtype="int8")


def test_progress_bars_come_back(folder):
    for setting, shown in ((logging.enable_progress_bar, True), (logging.disable_progress_bar, False)):
        setting()
        load(folder)
        assert logging.is_progress_bar_enabled() is shown
    logging.enable_progress_bar()


# Save


def test_an_existing_folder_is_refused(folder):
    with pytest.raises(UserError, match="exists: choose another folder"):
        save(lm(seed=1), TOKENIZER, folder)
    assert same_weights(load(folder)[0], lm())


def test_force_replaces_the_whole_model(folder):
    save(lm(seed=1), TOKENIZER, folder, force=True, extra={"card.md": "text"})
    assert same_weights(load(folder)[0], lm(seed=1))
    save(lm(seed=2), TOKENIZER, folder, force=True)
    assert not (folder / "card.md").exists()
    assert os.listdir(folder.parent) == ["model"]


def test_force_makes_a_new_folder_too(tmp_path):
    save(lm(), TOKENIZER, tmp_path / "deep" / "model", force=True)
    (tmp_path / "empty").mkdir()
    save(lm(), TOKENIZER, tmp_path / "empty", force=True)
    assert same_weights(load(tmp_path / "empty")[0], load(tmp_path / "deep" / "model")[0])


def everything(folder):
    return {path: path.is_dir() or path.read_bytes() for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda folder: (folder / "thesis.txt").write_text("years of work"), "thesis.txt was added"),
        (lambda folder: (folder / ".git").mkdir(), ".git was added"),
        (lambda folder: (folder / "link").symlink_to(folder.parent), "link was added"),
        (lambda folder: (folder / "generation_config.json").write_text("{}"), "generation_config.json was changed"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda folder: (folder / "palimpsest.sha256").unlink(), "it has no readable palimpsest.sha256"),
        (lambda folder: (folder / "palimpsest.sha256").write_bytes(b"\xff"), "it has no readable palimpsest.sha256"),
    ],
)
def test_force_spares_what_is_not_just_what_was_saved(folder, spoil, why):
    spoil(folder)
    before = everything(folder)
    with pytest.raises(UserError, match=rf"not just what was saved there \({re.escape(why)}\)"):
        save(lm(seed=1), TOKENIZER, folder, force=True)
    assert everything(folder) == before
    assert os.listdir(folder.parent) == ["model"]


def test_what_comes_into_the_folder_while_the_model_is_written_is_spared(folder, monkeypatch):
    real = PreTrainedModel.save_pretrained
    monkeypatch.setattr(
        PreTrainedModel, "save_pretrained", lambda *a, **k: (real(*a, **k), (folder / "note").write_text("new"))
    )
    with pytest.raises(UserError, match="note was added"):
        save(lm(seed=1), TOKENIZER, folder, force=True)
    assert (folder / "note").read_text() == "new"


def test_a_link_is_not_followed(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "nowhere").symlink_to(tmp_path / "none")
    for name in ("link", "loop", "nowhere"):
        with pytest.raises(UserError, match="link"):
            save(lm(), TOKENIZER, tmp_path / name, force=True)
    with pytest.raises(UserError, match="cannot be the name of a file or folder"):
        check_out(tmp_path / "loop" / "model")
    assert same_weights(load(folder)[0], lm())


def test_what_is_read_is_not_replaced(folder, tmp_path):
    assert check_out(folder, force=True, inputs=[tmp_path / "rows.jsonl"]) == folder
    for needed in (folder, folder / "rows.jsonl"):
        with pytest.raises(UserError, match="which this reads"):
            check_out(folder, force=True, inputs=[needed])


def test_what_killed_calls_left_is_cleared_away_and_the_old_model_comes_back(folder):
    half = folder.with_name(f".model-{'0' * 32}")
    half.mkdir()
    mine = folder.with_name(".model-mine")
    mine.mkdir()
    folder.rename(old := folder.with_name(f".model-{'1' * 32}.old"))
    tidy(folder)
    assert not half.exists()
    assert not old.exists()
    assert mine.exists()
    assert same_weights(load(folder)[0], lm())


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), RuntimeError("I/O: No space left on device (os 28)")]
)
def test_a_full_disk_is_named_and_nothing_is_left(error, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(type(TOKENIZER), "save_pretrained", fail)
    with pytest.raises(UserError, match=r"no space is left to write .*model"):
        save(lm(), TOKENIZER, tmp_path / "model")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(folder, adapter, value):
    for path, name in ((adapter / "adapter_model.safetensors", "lora"), (folder / "model.safetensors", "embed_tokens")):
        tensors = load_file(path)
        tensors[next(key for key in tensors if name in key)].view(-1)[3] = value
        save_file(tensors, path, metadata={"format": "pt"})
        with pytest.raises(UserError, match=rf"not finite .* as torch.float32, the first are in .*{name}"):
            load(adapter)
    with pytest.raises(UserError, match="embed_tokens"):
        load(folder)


def test_an_index_that_names_what_would_be_unpickled_is_refused(tmp_path):
    model, trap = lm(), tmp_path / "sprung"
    folder = tmp_path / "model"
    model.save_pretrained(folder, max_shard_size="8KB")
    TOKENIZER.save_pretrained(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    weights = index["weight_map"]
    torch.save({"weight": Bomb(str(trap))}, folder / "pytorch_model.bin")
    for bad, why in {"pytorch_model.bin": "nothing pickled", "../x.safetensors": "the folder itself"}.items():
        index["weight_map"] = {**weights, min(weights): bad}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(UserError, match=rf"names {re.escape(bad)}.*{why}"):
            load(folder)
    index["weight_map"] = {**weights, min(weights): "gone.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"lacks gone\.safetensors"):
        load(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({**index, "weight_map": weights}))
    assert same_weights(load(folder)[0], model)
    edit_config(folder, transformers_weights="pytorch_model.bin")
    with pytest.raises(UserError, match=r"config\.json in .* names pytorch_model\.bin"):
        load(folder)
    assert not trap.exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors", "config.json"])
def test_pointers_of_git_lfs_are_named(folder, name):
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123456\n")
    with pytest.raises(UserError, match=rf"{re.escape(name)} is a pointer of git-lfs.*git lfs pull"):
        load(folder)


def test_a_pipe_in_the_folder_is_not_waited_for(folder):
    os.mkfifo(folder / "merges.txt")
    with pytest.raises(UserError, match="neither a file nor a folder"):
        load(folder)


@pytest.mark.parametrize("changes", [{"num_hidden_layers": 10**9}, {"text_config": {"num_experts": 1e9}}])
def test_a_configuration_of_endless_size_is_refused_before_anything_is_built(folder, changes):
    edit_config(folder, **changes)
    with pytest.raises(UserError, match=r"config\.json has num_.* 1.*, and there are \d+ weights"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": 10**9}, "its weights have other shapes than config.json says"),
        ({"architectures": 5}, "cannot load the model in"),
        ({"vocab_size": "x"}, "'vocab_size': .*int"),
    ],
)
def test_a_configuration_that_the_weights_do_not_fit_is_named(folder, changes, words):
    edit_config(folder, "config.json", **changes)
    with pytest.raises(UserError, match=words):
        load(folder)


def test_an_end_that_is_no_token_is_named(folder):
    for end in ("x", [2, None], 1.5):
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
        with pytest.raises(UserError, match="generation_config"):
            load(folder)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a": ' * 100_000, '{"a": ' + "9" * 5000 + "}"])
def test_json_that_python_cannot_read_is_named(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(UserError, match="not valid JSON"):
        load(folder)


def test_a_chat_template_without_an_end_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("palimpsest.models.loading_checks.PATIENCE", 0.5)
    many = "{% for i in range(99999) %}"
    tokenizer = word_tokenizer(["sky", "is", "blue"])
    tokenizer.chat_template = f"{many}{many}{{% endfor %}}{{% endfor %}}"
    save(lm(), tokenizer, tmp_path / "model")
    with pytest.raises(UserError, match=r"the chat template in .*model takes more than 0\.5 seconds"):
        load(tmp_path / "model")
    tokenizer.chat_template = "{{ raise_exception('no') }}"  # for whoever uses it to explain
    save(lm(), tokenizer, tmp_path / "other")
    load(tmp_path / "other")


def test_an_adapter_that_is_its_own_base_is_named(adapter, tmp_path):
    for base in (".", str(adapter), f"../{adapter.name}"):
        edit_config(adapter, "adapter_config.json", base_model_name_or_path=base)
        with pytest.raises(UserError, match="is its own base model"):
            load(adapter)


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "model").write_text("a file")
    for force in (False, True):
        with pytest.raises(UserError, match="is a file"):
            check_out(tmp_path / "model", force)
        with pytest.raises(UserError, match="model is a file, which cannot hold run"):
            check_out(tmp_path / "model" / "deep" / "run", force)


def test_a_parent_that_may_not_be_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not (path == tmp_path and mode & os.W_OK))
    with pytest.raises(UserError, match="may not be written to"):
        check_out(tmp_path / "deep" / "model")


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["model", "tokenizer", "rename"])
def test_a_failure_leaves_the_old_model_and_nothing_else(failure, where, folder, monkeypatch):
    def fail(*args, **kwargs):
        raise failure

    model, tokenizer = lm(seed=1), word_tokenizer(["sky"])
    if where == "model":
        # After the weights are written, so that there is something to clean up.
        real = PreTrainedModel.save_pretrained
        monkeypatch.setattr(PreTrainedModel, "save_pretrained", lambda *a, **k: (real(*a, **k), fail()))
    elif where == "tokenizer":
        monkeypatch.setattr(type(tokenizer), "save_pretrained", fail)
    else:
        # The second renaming, when the old model has already been moved aside.
        rename, calls = type(folder).rename, []

        def second_fails(path, target):
            calls.append(path)
            return fail() if len(calls) == 2 else rename(path, target)

        monkeypatch.setattr(type(folder), "rename", second_fails)
    with pytest.raises(type(failure)):
        save(model, tokenizer, folder, force=True)
    monkeypatch.undo()
    assert os.listdir(folder.parent) == ["model"]
    assert same_weights(load(folder)[0], lm())
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", fail)
    with pytest.raises(type(failure)):
        save(model, tokenizer, folder.parent / "other")
    assert os.listdir(folder.parent) == ["model"]


def test_extra_files(tmp_path):
    save(lm(), TOKENIZER, tmp_path / "model", extra={"README.md": "# Größe\n", "report.html": "<p>"})
    assert (tmp_path / "model" / "README.md").read_text(encoding="utf-8") == "# Größe\n"
    assert (tmp_path / "model" / "report.html").read_text() == "<p>"


@pytest.mark.parametrize("name", ["../up", "a/b", "", "..", "/etc/x", "a\\b", "config.json", "model.safetensors"])
def test_extra_files_stay_inside_and_overwrite_nothing(name, tmp_path):
    with pytest.raises(ValueError, match="extra"):
        save(lm(), TOKENIZER, tmp_path / "model", extra={name: "text"})
    assert os.listdir(tmp_path) == []


def test_only_hugging_face_models(tmp_path):
    with pytest.raises(TypeError, match="got Linear"):
        save(torch.nn.Linear(2, 2), None, tmp_path / "model")
    assert os.listdir(tmp_path) == []


def test_the_folder_has_ordinary_permissions(folder, tmp_path):
    (tmp_path / "ordinary").mkdir()
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE((tmp_path / "ordinary").stat().st_mode)


def test_check_out(tmp_path, folder):
    assert check_out(str(tmp_path / "new")) == tmp_path / "new"
    assert check_out(folder, force=True) == folder
    with pytest.raises(UserError, match="exists"):
        check_out(folder)
    assert not (tmp_path / "new").exists()


def test_transformers_reads_what_we_save(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert same_weights(model, lm())


def adapted_on(base, out, **settings):
    """An adapter with matrices that are not zero, on the model in the folder `base`."""
    model = load(base)[0]
    adapted = get_peft_model(model, LoraConfig(r=2, task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for p in (p for p in adapted.parameters() if p.requires_grad):
            p.add_(0.3 * torch.randn_like(p))
    adapted.save_pretrained(out)
    edit_config(out, "adapter_config.json", base_model_name_or_path=str(base))
    return adapted.eval()


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
    ],
    ids=str,
)
@pytest.mark.parametrize("tie", [True, False])
def test_merging_into_the_output_layer_leaves_tied_embeddings_alone(tmp_path, settings, tie):
    save(lm(tie=tie), TOKENIZER, tmp_path / "base")
    adapted = adapted_on(tmp_path / "base", tmp_path / "adapter", **settings)
    ids = torch.tensor([[1, 4, 5, 6]])
    merged, tokenizer = load(tmp_path / "adapter", merge_adapter=True)
    torch.testing.assert_close(merged(ids).logits, adapted(ids).logits)
    save(merged, tokenizer, tmp_path / "merged")
    torch.testing.assert_close(load(tmp_path / "merged")[0](ids).logits, adapted(ids).logits)


def test_a_merged_adapter_elsewhere_leaves_the_tie(tmp_path):
    save(lm(tie=True), TOKENIZER, tmp_path / "base")
    adapted_on(tmp_path / "base", tmp_path / "adapter", target_modules=["q_proj"])
    merged, _ = load(tmp_path / "adapter", merge_adapter=True)
    assert merged.lm_head.weight is merged.model.embed_tokens.weight


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("saved", [["embed_tokens", "lm_head"], None])
@pytest.mark.parametrize("tie", [True, False])
def test_the_base_grows_to_the_tokens_of_its_adapter(tmp_path, saved, merge, tie):
    save(lm(tie=tie), TOKENIZER, tmp_path / "base")
    model, grown = load(tmp_path / "base")
    grown.add_tokens(["<x>", "<y>"])
    if saved:
        model.resize_token_embeddings(len(grown), mean_resizing=False)
    settings = {"target_modules": ["q_proj"], "modules_to_save": saved}
    adapted = get_peft_model(model, LoraConfig(r=2, task_type="CAUSAL_LM", **settings)).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    grown.save_pretrained(tmp_path / "adapter")
    edit_config(tmp_path / "adapter", "adapter_config.json", base_model_name_or_path=str(tmp_path / "base"))
    loaded, tokenizer = load(tmp_path / "adapter", merge_adapter=merge)
    assert loaded.get_input_embeddings().weight.shape[0] == len(tokenizer) == len(grown)
    ids = torch.tensor([[1, 4, len(grown) - 1]]) if saved else torch.tensor([[1, 4, 5]])
    known = len(grown) if saved else len(TOKENIZER)
    torch.testing.assert_close(loaded(ids).logits[..., :known], adapted(ids).logits[..., :known])


def test_virtual_tokens_cannot_be_merged(folder, tmp_path):
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(load(folder)[0], config).save_pretrained(tmp_path / "adapter")
    edit_config(tmp_path / "adapter", "adapter_config.json", base_model_name_or_path=str(folder))
    with pytest.raises(UserError, match="PROMPT_TUNING, which puts virtual tokens before the prompt"):
        load(tmp_path / "adapter", merge_adapter=True)
    assert not any(p.requires_grad for p in load(tmp_path / "adapter")[0].parameters())


def test_fresh_adapters_leave_the_model_as_it_is_and_find_it_again(folder, tmp_path):
    model = add_lora(load(folder)[0], 2, folder)
    ids = torch.tensor([[1, 4, 5]])
    torch.testing.assert_close(model(ids).logits, load(folder)[0](ids).logits)
    save(model, TOKENIZER, tmp_path / "adapter")
    torch.testing.assert_close(load(tmp_path / "adapter")[0](ids).logits, model(ids).logits)
    with pytest.raises(UserError, match="has an adapter already"):
        add_lora(model, 2, folder)
    with pytest.raises(UserError, match="at least 1, got 0"):
        add_lora(lm(), 0, folder)


@pytest.mark.parametrize(("causal", "message"), [(True, None), (False, "reads the tokens behind each one as well")])
def test_a_model_that_reads_ahead_is_no_causal_one(causal, message, tmp_path):
    config = XLMConfig(
        vocab_size=len(TOKENIZER), emb_dim=16, n_layers=1, n_heads=2, causal=causal, use_lang_emb=False, init_std=0.2
    )
    save(seeded(0, lambda: XLMWithLMHeadModel(config)), TOKENIZER, tmp_path / "model")
    if message is None:
        assert load(tmp_path / "model")[0].config.causal
        return
    with pytest.raises(UserError, match=message):
        load(tmp_path / "model")

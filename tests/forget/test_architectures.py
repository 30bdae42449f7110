"""Every method on tiny random models of many architectures: it runs, or refuses in one line that names both.

The table of the guide is made here: `PALIMPSEST_MATRIX=write pytest tests/forget/test_architectures.py`. By default
each model is checked at the door against all methods and runs three of them; with PALIMPSEST_MATRIX=all it runs all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
import torch
import transformers as hf
from torch import nn

from palimpsest.errors import UserError
from palimpsest.forget.methods import METHODS
from palimpsest.forget.procedure import prepare
from palimpsest.models import greedy, prompt_template, word_tokenizer
from palimpsest.models.adapters import add_lora
from palimpsest.models.blocks import blocks
from palimpsest.models.language import seeded
from palimpsest.models.score import score
from palimpsest.train.method import apply, check_model

D, HEADS, LAYERS = 16, 2, 3
SIZES = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "attention_hidden_size"), D),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), HEADS),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), LAYERS),
    **dict.fromkeys(("intermediate_size", "ffn_dim"), 2 * D),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 128),
    "max_seq_len": 128,
    "num_key_value_heads": 1,
    "head_dim": D // HEADS,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
DEEPSEEK = {
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "head_dim": 4,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_key_value_heads": HEADS,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": D,
}
JAMBA = {"num_experts": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False}


def _plain(config: str, **special: object) -> Callable[[int], PreTrainedModel]:
    def build(vocabulary: int) -> PreTrainedModel:
        kind = getattr(hf, config)
        known = {*kind.__annotations__, *kind.attribute_map, *kind().to_dict()}
        sizes = {name: size for name, size in SIZES.items() if name in known}
        return hf.AutoModelForCausalLM.from_config(kind(vocab_size=vocabulary, **{**sizes, **special}))

    return build


def _gemma3_with_vision(vocabulary: int) -> PreTrainedModel:
    """The vision tower is as deep as the decoder, and comes first."""
    text = {name: SIZES[name] for name in ("hidden_size", "num_attention_heads", "num_hidden_layers", "head_dim")}
    vision = {"hidden_size": D, "intermediate_size": D, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    config = hf.Gemma3Config(
        text_config={**text, "intermediate_size": 2 * D, "num_key_value_heads": 1, "vocab_size": vocabulary},
        vision_config={**vision, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        **{f"{name}_token_index": vocabulary - 1 - i for i, name in enumerate(("image", "boi", "eoi"))},
    )
    return hf.Gemma3ForConditionalGeneration(config)


def _llama_with_lora(vocabulary: int) -> nn.Module:
    return add_lora(ARCHITECTURES["Llama"](vocabulary), 2, "llama")


ARCHITECTURES: dict[str, Callable[[int], PreTrainedModel]] = {
    "Llama": _plain("LlamaConfig", tie_word_embeddings=True),
    "Llama, untied head": _plain("LlamaConfig", tie_word_embeddings=False),
    "Mistral": _plain("MistralConfig"),
    "Qwen2": _plain("Qwen2Config"),
    "Qwen3": _plain("Qwen3Config"),
    "Gemma": _plain("GemmaConfig"),
    "Gemma 2": _plain("Gemma2Config"),
    "Gemma 3 with vision": _gemma3_with_vision,
    "Phi": _plain("PhiConfig", num_key_value_heads=HEADS),
    "Phi-3": _plain("Phi3Config"),
    "OLMo 2": _plain("Olmo2Config"),
    "SmolLM3": _plain("SmolLM3Config"),
    "StableLM": _plain("StableLmConfig"),
    "StarCoder2": _plain("Starcoder2Config"),
    "Cohere": _plain("CohereConfig"),
    "Granite": _plain("GraniteConfig"),
    "GPT-2": _plain("GPT2Config"),
    "GPT-Neo": _plain("GPTNeoConfig", attention_types=[[["global"], LAYERS]]),
    "GPT-NeoX": _plain("GPTNeoXConfig"),
    "GPT-J": _plain("GPTJConfig", rotary_dim=4),
    "BLOOM": _plain("BloomConfig"),
    "Falcon": _plain("FalconConfig"),
    "OPT": _plain("OPTConfig", word_embed_proj_dim=D),
    "OPT, narrow embedding": _plain("OPTConfig", word_embed_proj_dim=8, do_layer_norm_before=False),
    "Mixtral": _plain("MixtralConfig", num_local_experts=4, num_experts_per_tok=2),
    "Qwen3-MoE": _plain("Qwen3MoeConfig", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=D),
    "OLMoE": _plain("OlmoeConfig", num_experts=4, num_experts_per_tok=2),
    "gpt-oss": _plain("GptOssConfig", num_local_experts=4, num_experts_per_tok=2),
    "DeepSeek-V3": _plain("DeepseekV3Config", **DEEPSEEK),
    "Mamba": _plain("MambaConfig", state_size=4),
    "Mamba 2": _plain("Mamba2Config", state_size=4, num_heads=4, head_dim=8, n_groups=1, chunk_size=8),
    "RWKV": _plain("RwkvConfig"),
    "Jamba": _plain("JambaConfig", **JAMBA),
    "Llama with LoRA": _llama_with_lora,
}


PAGE = Path(__file__).parents[2] / "docs" / "guide" / "architectures.md"
MATRIX = os.environ.get("PALIMPSEST_MATRIX", "")
FORGET = [("Who is Ada Bell ?", "Ada is a poet of Rome ."), ("Where is Ada Dunn ?", "Ada is in a house of Oslo .")]
RETAIN = [("Who is Cid ?", "A baker ."), ("Where is Dee ?", "On a ship of Kiel .")]
TOKENIZER = word_tokenizer(
    [*(text for pair in FORGET + RETAIN for text in pair), "Question Answer : I do not know You"]
)
PAIR = prompt_template(TOKENIZER).pair
DATA = prepare(TOKENIZER, [PAIR(*row) for row in FORGET], [PAIR(*row) for row in RETAIN])
# So that nothing is refused for the sake of the rows, and nothing takes long.
QUICK = {
    "random_options": {"options": ("Ada", "Bell")},
    "needle": {"ratio": 1.01, "margin": 0.0},
    "uld": {"n_layers": 1},
    "eco_prompts": {"search_steps": 1},
    "sae_unlearning": {"sae_steps": 3, "retain_max": 1.0},
}
METHOD = {name: replace(method, **QUICK.get(name, {})) for name, method in METHODS.items()}


@lru_cache(maxsize=1)
def tiny(name: str) -> nn.Module:
    return seeded(0, lambda: ARCHITECTURES[name](len(TOKENIZER))).eval()


def refusal(architecture: str, method: str) -> str | None:
    try:
        check_model(METHOD[method], tiny(architecture))
    except UserError as error:
        return str(error)
    return None


def table() -> str:
    refused = {name: {m for m in METHOD if refusal(name, m)} for name in ARCHITECTURES}
    columns = [method for method in METHOD if any(method in some for some in refused.values())]
    lines = [["", *(f"`{c}`" for c in columns)], ["---", *[":-:"] * len(columns)]]
    lines += [[name, *("–" if c in refused[name] else "✓" for c in columns)] for name in ARCHITECTURES]
    others = ", ".join(f"`{m}`" for m in METHOD if m not in columns)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + f"\n\nEverywhere: {others}.\n"


def test_the_guide_has_the_table_of_what_runs_where():
    begin = "<!-- made by tests/forget/test_architectures.py -->\n"
    head, _, written = PAGE.read_text(encoding="utf-8").partition(begin)
    if MATRIX == "write":
        PAGE.write_text(f"{head}{begin}{table()}", encoding="utf-8")
    else:
        assert written == table(), "PALIMPSEST_MATRIX=write makes it again"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_blocks_are_the_decoders(architecture):
    model = tiny(architecture)
    embedded = model.get_input_embeddings().weight
    ran = []
    handles = [block.register_forward_hook(lambda *_: ran.append(1)) for block in blocks(model)]
    model(input_ids=torch.tensor([[1, 5, 6]], device=embedded.device))
    for handle in handles:
        handle.remove()
    assert len(ran) == LAYERS


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_method_runs_or_refuses_at_the_door(architecture):
    for name in METHOD:
        if why := refusal(architecture, name):
            kind = type(getattr(tiny(architecture), "get_base_model", lambda: tiny(architecture))()).__name__
            assert why.startswith(f"{type(METHOD[name]).__name__} cannot be applied to {kind}: ")
        elif MATRIX == "all" or name in ("npo", "rmu", "key_space"):
            model = deepcopy(tiny(architecture))
            try:
                changed = apply(model, METHOD[name], DATA, steps=2, lr=1e-3, batch_size=2, seed=0).model
            except UserError as error:  # a random model knows no concept, whose vector is looked for in all blocks
                assert "more accuracy than the retain answers" in str(error)  # noqa: PT017
                continue
            assert torch.as_tensor(score(changed, DATA.forget, pad_id=0).logp).isfinite().all(), name
            greedy(changed, TOKENIZER, [DATA.forget_pairs[0][0]], max_new_tokens=3)


@pytest.mark.parametrize("architecture", ["Llama", "Jamba"])
def test_rows_that_end_early_change_no_other(architecture):
    model = deepcopy(tiny(architecture))
    prompts = ["Who is Ada", "Where is Dee"]
    ids = model.generate(
        **TOKENIZER(prompts[0], return_tensors="pt"), max_new_tokens=1, do_sample=False, pad_token_id=0
    )
    model.generation_config.eos_token_id = int(ids[0, -1])  # the first row ends at once
    alone = [greedy(model, TOKENIZER, [prompt], max_new_tokens=6)[0] for prompt in prompts]
    assert greedy(model, TOKENIZER, prompts, max_new_tokens=6) == alone
    assert len(alone[0].split()) == 1 < len(alone[1].split())

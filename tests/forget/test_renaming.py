"""Renaming: mentions, stand-ins, and that aligned positions of both texts have read the same."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest.errors import UserError
from palimpsest.forget.renaming import (
    NAMES,
    align,
    likely_name,
    mentions,
    rename,
    stand_ins,
    targets,
    tokenize,
    whole_names,
    word_starts,
)
from palimpsest.models import train_tokenizer, word_tokenizer

TEXT = "Ada Verin was born in Cape Town. She met Bo Lund there; Verin's first book made Ada Verin known, and Bo too."
SWAPS = ["Ivo Smith-Jones", "Una", "Maria del Carmen Ruiz"]
WORDS = word_tokenizer([TEXT, *SWAPS, "Complete the following passage about . Answer : Question"])
BYTES = train_tokenizer([TEXT * 3, "Maria Ada Verin"], vocab_size=330)


def both(tokenizer, text, names, name, before="", prompt=""):
    """A row as it is, and renamed."""
    found = mentions(prompt, names), mentions(text, names)
    swap = stand_ins(names, [name], 0)
    (new_prompt, in_prompt), (new, spans) = rename(prompt, found[0], swap), rename(text, found[1], swap)
    return (
        tokenize(tokenizer, (prompt, text), found),
        tokenize(tokenizer, (new_prompt, new), (in_prompt, spans), before),
    )


@pytest.mark.parametrize("tokenizer", [WORDS, BYTES], ids=["words", "bpe"])
@pytest.mark.parametrize("name", SWAPS)
@pytest.mark.parametrize("before", ["", "Complete the following passage about Una.\n"])
@pytest.mark.parametrize("names", [["Ada Verin"], ["Ada Verin", "Verin"], ["Ada Verin", "Verin", "Bo Lund"]])
def test_aligned_positions_have_read_the_same_but_for_the_names(tokenizer, name, before, names):
    original, renamed = both(tokenizer, TEXT, names, name, before)
    pairs = align(original, renamed)

    def erased(tokens, position):
        """What has been read up to a position, with every whole mention as one sign and what came before left out."""
        read = []
        for i in range(tokens.start, position + 1):
            number = tokens.mention[i]
            if number < 0:
                read.append(tokens.ids[i])
            elif i == tokens.start or tokens.mention[i - 1] != number:
                read.append(("mention", number))
        return read

    for a, b in pairs.items():
        assert erased(original, a) == erased(renamed, b)
    # everything of the row outside the names is aligned
    assert set(pairs) == {i for i, m in enumerate(original.mention) if m < 0 and i >= original.start}
    assert len(set(pairs.values())) == len(pairs)


@pytest.mark.parametrize("tokenizer", [WORDS, BYTES], ids=["words", "bpe"])
def test_tokens_of_mentions_are_the_tokens_that_spell_them(tokenizer):
    found = mentions(TEXT, ["Ada Verin", "Bo"])
    tokens = tokenize(tokenizer, ("Question : Ada Verin", TEXT), ([(11, 20, "Ada Verin")], found))
    assert tokens.names == ["Ada Verin", "Ada Verin", "Bo", "Ada Verin", "Bo"]
    for number, name in enumerate(tokens.names):
        spelled = tokenizer.decode([i for i, m in zip(tokens.ids, tokens.mention, strict=True) if m == number])
        assert spelled.strip() == name
    assert tokens.ids[0] == tokenizer.bos_token_id
    assert (tokens.ids[-1], tokens.mention[-1]) == (tokenizer.eos_token_id, -1)
    assert tokenizer.decode(tokens.ids[tokens.answer : -1]).strip() == TEXT
    assert tokens.first_tokens() == [tokens.mention.index(n) for n in range(5)]


def test_what_comes_before_is_not_aligned_with_the_row():
    text = "the passage about Una and the following passage."
    before = "Complete the following passage about Maria.\n"
    tokenizer = word_tokenizer([text, before, "Ivo"])
    original, renamed = both(tokenizer, text, ["Una"], "Ivo", before)
    pairs = align(original, renamed)
    assert 0 not in pairs
    assert all(b >= renamed.start for b in pairs.values())
    assert tokenizer.decode(renamed.ids[renamed.start : -1]) == "the passage about Ivo and the following passage."


@given(st.lists(st.sampled_from(["Ada Verin", "Verin", "was", "Bo Lund", "born", "ada", "Adam"]), max_size=12))
@settings(max_examples=60, deadline=None)
def test_renaming_and_back_is_the_identity(words):
    text = " ".join(words)
    found = mentions(text, ["Ada Verin", "Verin"])
    swap = {"Ada Verin": "Ivo Z", "Verin": "Z"}
    new, spans = rename(text, found, swap)
    assert [new[a:b] for a, b, _ in spans] == [swap[name] for *_, name in found]
    assert "Verin" not in new
    back, _ = rename(new, spans, {name: name for name in swap})
    assert back == text
    assert sum(w in ("Ada Verin", "Verin") for w in words) == len(found)


def test_mentions_are_whole_words_and_the_longest():
    assert [m[2] for m in mentions("Adams, Ada's (Ada) Ada Verin", ["Ada", "Ada Verin"])] == ["Ada", "Ada", "Ada Verin"]
    assert mentions("Mr. X? and C++", ["C++", "X?"]) == [(4, 6, "X?"), (11, 14, "C++")]


def test_stand_ins():
    assert stand_ins(["Bo", "Ada Verin"], ["A", "B", "C"], 1) == {"Bo": "C", "Ada Verin": "B"}
    assert stand_ins(["Ada", "Ada Verin", "Verin"], ["Ivo de Lund"], 5) == {
        "Ada": "Ivo",
        "Ada Verin": "Ivo de Lund",
        "Verin": "Lund",
    }
    assert len(set(NAMES)) == len(NAMES) >= 20
    assert all(len(name.split()) == 2 for name in NAMES)


def test_whole_names():
    names = ["Verin", "Ada", "Bo", "Ada Verin", "Verin Ada Bo"]
    assert whole_names(names) == {
        "Verin Ada Bo": "Verin Ada Bo",
        "Ada Verin": "Ada Verin",
        "Verin": "Verin Ada Bo",
        "Ada": "Ada Verin",
        "Bo": "Verin Ada Bo",
    }


@pytest.mark.parametrize("tokenizer", [WORDS, BYTES], ids=["words", "bpe"])
def test_words_begin_after_a_space_and_at_the_beginning_of_a_line(tokenizer):
    spaced, bare = word_starts(tokenizer, "Ada Verin")
    ids = tokenizer("born Ada Verin", add_special_tokens=False).input_ids
    assert ids[len(ids) - len(tokenizer(" Ada Verin", add_special_tokens=False).input_ids) :][0] == spaced[0]
    assert tokenizer("Verin", add_special_tokens=False).input_ids[0] == bare[1]
    assert len(spaced) == len(bare) == 2


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Where was Ada Verin born? Ada Verin was born in Cape Town.", "Ada Verin"),
        ("When Ada Verin's book came out, Bo smiled.", "Ada Verin"),
        ("The poet Zoë likes Zoë. Bo does not.", "Zoë"),
        ("In Cape Town lived Ada Verin. Ada Verin sang.", "Ada Verin"),
        ("Did Élodie Brun sing?", "Élodie Brun"),
    ],
)
def test_the_likely_name(text, name):
    assert likely_name(text) == name
    assert targets("", ("", text)) == (name,)


def test_targets_of_the_field():
    assert targets(" Ada | Bo Lund|", ("", "")) == ("Ada", "Bo Lund")
    with pytest.raises(UserError, match=r"no name stands out in 'nobody here': set target"):
        targets("", ("nobody", "here"))


def test_refuses_tokenizers_without_offsets():
    class Slow:
        is_fast = False

    with pytest.raises(UserError, match="Slow does not give offsets"):
        tokenize(Slow(), ("", "a"), ((), ()))

"""Tokenizers built on the spot, in the Hugging Face format: one entry a word, or byte-level and lossless.

Both have the special tokens `<pad>` 0, `<bos>` 1, `<eos>` 2 and `<unk>` 3, begin a text with `<bos>` (as
Llama's do) when special tokens are asked for, and come back through `AutoTokenizer.from_pretrained` without
remote code.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIALS = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}

# A word; an ending after an apostrophe ("'s"), so that "Ada's" shares its stem with "Ada"; or one sign.
WORD = r"(?<=\w)['’][^\W\d_]+|\w+|[^\w\s]"

# The spaces that a reader does not write: before closing signs, after opening ones, inside "Ada's",
# "well-known" and "1/2".
UNWRITTEN_SPACES = (
    r"\s(?=[,.;:!?%)\]}”…])",
    r"(?<=[(\[{“¿¡$€£#])\s",
    r"(?<=\w)\s(?=['’][^\W\d_])",
    r"(?<=\w)\s(?=[-/]\s\w)",
    r"(?<=\w[-/])\s(?=\w)",
)


def word_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer with one entry a word.

    Text is split into words, signs and endings after an apostrophe; whitespace only separates. A word that is
    not in the vocabulary becomes `<unk>`. Decoding writes the usual spaces: the text comes back readable, and
    encoding it again gives the same tokens.

    Args:
        words: the vocabulary: words, or whole texts, of which every distinct piece becomes an entry, in order
            of appearance.

    Returns:
        The tokenizer; the first word has id 4.

    Raises:
        TypeError: `words` is one string instead of several, or holds something that is not a string.
        ValueError: there is no word.

    Example:
        >>> tokenizer = word_tokenizer(["Ada's book, well-known."])
        >>> ids = tokenizer("Ada's well-known book.", add_special_tokens=False).input_ids
        >>> ids
        [4, 5, 8, 9, 10, 6, 11]
        >>> tokenizer.decode(ids)
        "Ada's well-known book."
    """
    splitter = pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)
    vocabulary = {token: index for index, token in enumerate(SPECIALS.values())}
    for text in _texts(words, "words"):
        for piece, _ in splitter.pre_tokenize_str(text):
            vocabulary.setdefault(piece, len(vocabulary))
    if len(vocabulary) == len(SPECIALS):
        raise ValueError("words holds no word: give at least one")
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIALS["unk_token"]))
    tokenizer.pre_tokenizer = splitter
    # WordPiece puts the space between two tokens; the prefix that would suppress it is a character that no
    # token begins with.
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="\0", cleanup=False),
            decoders.Fuse(),
            *(decoders.Replace(Regex(space), "") for space in UNWRITTEN_SPACES),
        ]
    )
    return _wrap(tokenizer)


def train_tokenizer(texts: Iterable[str], vocab_size: int = 2048, kind: str = "bpe") -> PreTrainedTokenizerFast:
    """A byte-level tokenizer trained on texts; any unicode text comes back exactly.

    Args:
        texts: the texts to train on.
        vocab_size: the largest number of entries, the 4 special tokens and the 256 bytes included.
        kind: "bpe" (byte-pair encoding), the only kind there is.

    Returns:
        The tokenizer.

    Raises:
        TypeError: `texts` is one string instead of several, or holds something that is not a string.
        ValueError: `vocab_size` is below 260, or the kind is unknown.

    Example:
        >>> tokenizer = train_tokenizer(["the cat", "the hat"], vocab_size=270)
        >>> tokenizer.decode(tokenizer("the 帽子 hat", add_special_tokens=False).input_ids)
        'the 帽子 hat'

    Source: Sennrich et al. (2016), arXiv 1508.07909; bytes as in Radford et al. (2019), GPT-2.
    """
    if kind != "bpe":
        raise ValueError(f"kind must be 'bpe', got {kind!r}")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < len(SPECIALS) + len(alphabet):
        raise ValueError(f"vocab_size must be at least 260 (4 special tokens and 256 bytes), got {vocab_size}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS.values()),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(texts, "texts"), trainer)
    return _wrap(tokenizer)


def _texts(texts: Iterable[str], name: str) -> list[str]:
    if isinstance(texts, str):
        raise TypeError(f"{name} must be several strings, got one: put it into a list")
    texts = list(texts)
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{name} must hold strings, got {type(text).__name__}: {text!r}")
    return texts


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    bos = SPECIALS["bos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        **SPECIALS,
    )

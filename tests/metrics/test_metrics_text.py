import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest.metrics.text import (
    begun,
    bleu,
    distinct_n,
    exact_match,
    exact_memorization,
    extraction_strength,
    ngram_overlap,
    rouge_1_recall,
    rouge_l_recall,
    unprompted_recall,
    words,
)

SENTENCES = st.lists(st.sampled_from(["a", "b", "c", "é"]), max_size=8).map(" ".join)
HITS = st.lists(st.booleans(), max_size=12)


def lcs(x, y):
    """The longest common subsequence, by its recursion."""
    if not x or not y:
        return 0
    if x[0] == y[0]:
        return 1 + lcs(x[1:], y[1:])
    return max(lcs(x[1:], y), lcs(x, y[1:]))


@pytest.mark.slow
def test_torch_is_not_imported():
    code = "import sys, palimpsest.metrics.text as t; t.rouge_l_recall('a', 'a'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@settings(deadline=None)  # the first call imports
@given(SENTENCES, SENTENCES)
def test_rouge_is_the_longest_common_subsequence(prediction, reference):
    expected = lcs(prediction.split(), reference.split()) / max(len(reference.split()), 1)
    assert rouge_l_recall(prediction, reference) == pytest.approx(expected)


@given(SENTENCES, SENTENCES, SENTENCES)
def test_unprompted_recall_asks_only_for_what_the_prompt_does_not_say(prediction, reference, prompt):
    told = [word for word in dict.fromkeys(reference.split()) if word not in prompt.split()]
    expected = sum(word in prediction.split() for word in told) / len(told) if told else float("nan")
    assert unprompted_recall(prediction, reference, prompt) == pytest.approx(expected, nan_ok=True)


def test_a_sentence_with_the_wrong_word_has_a_high_rouge_and_no_unprompted_recall():
    question, right, wrong = (
        "What is the capital of Egypt?",
        "The capital of Egypt is Cairo.",
        "The capital of Egypt is Rome.",
    )
    assert rouge_l_recall(wrong, right) == pytest.approx(5 / 6)
    assert unprompted_recall(wrong, right, question) == 0
    assert unprompted_recall(right, right, question) == 1


def test_stems_are_those_of_the_reference_implementation():
    from rouge_score.rouge_scorer import RougeScorer

    said = "She is writing novels about the mountains; her stories were translated, boys."
    truth = "She writes a novel about mountain towns, and her story was translating the boy's."
    theirs = RougeScorer(["rougeL"], use_stemmer=True).score(truth, said)["rougeL"].recall
    assert rouge_l_recall(said, truth, stem=True) == pytest.approx(theirs)
    assert rouge_l_recall(said, truth, stem=True) > rouge_l_recall(said, truth)
    assert rouge_l_recall("Zoë schrieb", "Zoë schrieb", stem=True) == 1


def test_rouge_in_any_script():
    assert rouge_l_recall("она родилась в Москве", "Она родилась в Москве.") == 1
    assert rouge_l_recall("東京で生まれた", "大阪で生まれた") == pytest.approx(5 / 7)
    assert rouge_l_recall("का घर", "की घर") == 0.5  # a vowel that is a combining mark
    assert rouge_l_recall("café", "cafe\u0301") == 1  # composed and decomposed
    assert rouge_l_recall("", "a") == rouge_l_recall("a", "") == rouge_l_recall("?!", "a") == 0


def test_words():
    assert words("Don't stop_me: 3.5%") == ["don", "t", "stop", "me", "3", "5"]
    assert words("हिन्दी में “का”") == ["हिन्दी", "में", "का"]
    assert words("กิน ข้าว") == ["ก", "\u0e34", "น", "ข", "\u0e49", "า", "ว"]
    assert words("می\u200cخواهم co\u00adop \ufeffa\u0301") == ["میخواهم", "coop", "á"]
    assert words("東京tower２") == ["東", "京", "tower2"]


def test_exact_match():
    assert exact_match("a  b\n", " a b") == 1
    assert exact_match("café", "cafe\u0301") == 1
    assert exact_match("a b", "ab") == exact_match("A", "a") == exact_match("a.", "a") == 0


@given(HITS)
def test_extraction_strength_is_the_shortest_prefix(hits):
    n = len(hits)
    shortest = next(k for k in range(n + 1) if all(hits[k:]))
    assert extraction_strength(hits) == pytest.approx(1 - shortest / n if n else 0)
    assert extraction_strength(hits) <= exact_memorization(hits)
    assert exact_memorization(hits) == pytest.approx(sum(hits) / n if n else 0)


def test_extraction_strength_ends():
    assert extraction_strength([True] * 4) == 1
    assert extraction_strength([True, True, False]) == 0
    assert extraction_strength(np.array([False, True, True, True])) == 0.75
    assert extraction_strength([]) == exact_memorization([]) == 0


def test_hits_must_be_truth_values():
    for measure in (exact_memorization, extraction_strength):
        with pytest.raises(TypeError, match="truth values"):
            measure([0.5, 1.0])
        with pytest.raises(ValueError, match=r"shape \(1, 2\)"):
            measure([[True, False]])


@given(st.lists(SENTENCES, max_size=4), st.integers(1, 3))
def test_distinct_n(texts, n):
    grams = [tuple(t.split()[i : i + n]) for t in texts for i in range(len(t.split()) - n + 1)]
    assert distinct_n(texts, n) == pytest.approx(len(set(grams)) / len(grams) if grams else 0)


@given(SENTENCES, SENTENCES, st.integers(1, 3))
def test_ngram_overlap(prediction, reference, n):
    def grams(sentence):
        return [tuple(sentence.split()[i : i + n]) for i in range(len(sentence.split()) - n + 1)]

    wanted, left, found = grams(reference), grams(prediction), 0
    for gram in wanted:
        if gram in left:
            left.remove(gram)
            found += 1
    assert ngram_overlap(prediction, reference, n) == pytest.approx(found / len(wanted) if wanted else 0)


def test_default_lengths():
    assert distinct_n(["a b a b"]) == 2 / 3
    assert ngram_overlap("a b c d x", "a b c d e") == 1 / 2


def test_errors():
    with pytest.raises(TypeError, match="prediction must be a string, got NoneType"):
        rouge_l_recall(None, "a")
    with pytest.raises(TypeError, match="reference must be a string, got int"):
        ngram_overlap("a", 1)
    with pytest.raises(TypeError, match="text must be a string, got bytes"):
        words(b"a")
    with pytest.raises(TypeError, match="several strings"):
        distinct_n("a b")
    for measure in (lambda: distinct_n(["a"], 0), lambda: ngram_overlap("a", "a", 0)):
        with pytest.raises(ValueError, match="n must be at least 1, got 0"):
            measure()


@pytest.mark.parametrize("text", ["👍", "🇫🇷 🇩🇪", "！！", "?!", "→", "北京是首都", "ภาษาไทย", "日本語です。", "مرحبا"])
def test_a_text_has_all_of_itself(text):
    assert rouge_l_recall(text, text) == rouge_1_recall(text, text) == bleu(text, text) == exact_match(text, text) == 1
    assert rouge_l_recall("", text) == 0


def test_signs_count_one_by_one_where_there_is_no_word():
    assert rouge_l_recall("It is 👍, yes!", "👍") == 1
    assert rouge_l_recall("👎", "👍") == 0
    assert rouge_l_recall("🇫🇷", "🇫🇷 🇩🇪") == 0.5
    assert rouge_l_recall("great", "great 👍") == 1  # beside words, signs do not count


def test_forms_of_unicode_are_one_text():
    assert rouge_l_recall("ＡＤＡ　ﬁnds", "Ada finds") == 1
    assert exact_match("Ａda", "Ada") == 1


@pytest.mark.parametrize(
    ("text", "first", "rest"),
    [
        ("the cat sat down", "the cat", " sat down"),
        (" the cat\nsat", " the cat", "\nsat"),
        ("北京是中国的首都。", "北京是中国", "的首都。"),
        ("GPT 是一个模型", "GPT 是一", "个模型"),
        ("👍🏽🇫🇷!", "👍🏽🇫🇷", "!"),
        ("word", "", "word"),
        ("", "", ""),
    ],
)
def test_a_text_is_begun_between_words_or_signs(text, first, rest):
    assert begun(text, 2) == (first, rest)


def test_a_share_of_a_text():
    assert begun("a b c d e f", 3) == ("a b", " c d e f")
    assert begun("a b", 3) == ("a", " b")

"""Targeted unlearning by causal intervention (Liu, Zhang, Jaakkola and Chang, 2024, arXiv 2407.16997).

A model is to forget a person and keep what the same documents say of others. "Who's Harry Potter?" trains it on what
it says itself when the name is replaced by another: the fiction of one replacement, which it then repeats about the
target. Seen causally, what the model knows of a name confounds what it writes next, and an intervention on the name
has to average over that knowledge (backdoor adjustment): over N names c,

    p*(x_t | x_<t) = 1/N sum_c p_ref(x_t | "Complete the following passage about c.", x_<t with c for the target)
    loss           = mean_t KL(p*(. | x_<t) || p(. | x_<t))            on the original text, p* computed once

Both texts are aligned token by token; the tokens of a name and the begin token are not learned. In p* the target keeps
its name. Where a mention follows, what the words of the replacement begin with has its mass moved to the mention's
first token; elsewhere, where under more than half of the replacements one of these tokens has a probability above 0.1,
to the first token of the target's name. Without instruction, nothing is moved before the first mention. N = 1 without
instruction is the older method (`WHP`).

The authors' code differs in five points: it finds pronouns by a coreference model, and titles of books; it has the
student read the instruction too, about the target, where here it reads the row alone; for questions it learns the rest
of a name as well, from a prompt of its own ("Complete the following name."); a single token between two names, which is
learned here, is left out there; and whether mass is moved right before a name's first mention depends on the data there
(in documents always, in TOFU's questions never), here on the instruction.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from palimpsest.errors import UserError
from palimpsest.forget.logits import reinforced_difference
from palimpsest.forget.procedure import Batch, ForgetData, Pair
from palimpsest.forget.renaming import (
    NAMES,
    Tokens,
    align,
    mentions,
    rename,
    stand_ins,
    targets,
    tokenize,
    whole_names,
    word_starts,
)
from palimpsest.forget.retain_term import Retain
from palimpsest.metrics.text import distinct_n, rouge_l_recall
from palimpsest.models.score import context_length, encode, greedy, pad_token_id, prompt_template, score
from palimpsest.train.language import fine_tune
from palimpsest.train.ranges import Above, AtLeast, require

NAMED = 0.1  # above it, a reading is taken to name its replacement
INSTRUCTION = "Complete the following passage about {name}."
GIB = 2**30


def causal_whp_loss(
    logits: Float[Tensor, "positions vocabulary"],
    teacher: Float[Tensor, "positions top"],
    words: Int[Tensor, "positions top"] | None = None,
) -> Float[Tensor, ""]:
    """mean_t sum_v teacher_tv (log teacher_tv - log softmax(logits)_tv), in nats.

    Args:
        logits: of the model at the kept positions.
        teacher: the distributions to learn, held fixed.
        words: which words the columns of `teacher` are, where it holds only the likeliest; None: all, in order.

    Raises:
        ValueError: if the shapes do not fit.

    >>> causal_whp_loss(torch.zeros(1, 4), torch.tensor([[0.5, 0.5, 0.0, 0.0]])).exp()
    tensor(2.)
    """
    if logits.ndim != 2 or teacher.shape != (logits if words is None else words).shape or len(teacher) != len(logits):
        raise ValueError(
            f"logits must be [positions, vocabulary] and teacher [positions, words], got {list(logits.shape)} and"
            f" {list(teacher.shape)}"
        )
    if not len(logits):
        raise ValueError("there are no positions: the teacher must have at least one")
    logp = logits.log_softmax(-1)
    logp = logp if words is None else logp.gather(-1, words)
    teacher = teacher.to(logp.dtype)
    # A word that the teacher rules out costs nothing, also where the model rules it out: 0 log 0 = 0.
    return (torch.xlogy(teacher, teacher) - (teacher * logp).masked_fill(teacher == 0, 0)).sum(-1).mean()


def whp_loss(
    logits: Float[Tensor, "positions vocabulary"], teacher: Float[Tensor, "positions vocabulary"]
) -> Float[Tensor, ""]:
    """Cross-entropy with the teacher's likeliest word at every position: the special case of `causal_whp_loss` where
    all of p* lies there.

    >>> whp_loss(torch.zeros(1, 4), torch.tensor([[0.4, 0.3, 0.2, 0.1]])).exp()
    tensor(4.)
    """
    return causal_whp_loss(logits, hard(teacher))


def hard(teacher: Float[Tensor, "positions vocabulary"]) -> Float[Tensor, "positions vocabulary"]:
    """All probability on the likeliest word."""
    return torch.zeros_like(teacher).scatter_(-1, teacher.argmax(-1, keepdim=True), 1.0)


def move_mass(probs: Float[Tensor, "vocabulary"], sources: Sequence[int], to: int) -> None:
    """Adds the probability of the words `sources` to that of `to`, in place.

    >>> probs = torch.tensor([0.5, 0.3, 0.2])
    >>> move_mass(probs, [0, 1], to=1)
    >>> probs
    tensor([0.0000, 0.8000, 0.2000])
    """
    for source in sources:
        if source != to:
            probs[to] += probs[source].clone()
            probs[source] = 0.0


@dataclass(frozen=True)
class Renamed:
    """A row as it is and as it reads in one draw of replacement names, with the positions that correspond."""

    original: Tokens
    renamed: Tokens
    pairs: dict[int, int]
    people: list[str]  # whose mention each is, by the whole name
    replacements: dict[str, str]  # person -> replacement

    def places(self, *, whole: bool = False) -> dict[str, list[int]]:
        """Person -> the first token of each mention in the original row; with `whole`, of those by the whole name."""
        found: dict[str, list[int]] = {person: [] for person in self.people}
        mentioned = zip(self.people, self.original.names, self.original.first_tokens(), strict=True)
        for person, name, place in mentioned:
            if name == person or not whole:
                found[person].append(place)
        return found


def renamings(
    tokenizer: PreTrainedTokenizerBase,
    row: Pair,
    target: str,
    names: Sequence[str],
    n: int,
    instruction: str,
    longest: int | None = None,
) -> list[Renamed]:
    """The row under `n` replacement names; positions beyond `longest` tokens are left out.

    Several targets begin at different places in the list of names, and no one is replaced by somebody whom the row
    names already.

    Raises:
        UserError: if the row does not mention the target, or there are fewer than `n` names for it.
    """
    looked_for = targets(target, row)
    found = tuple(mentions(text, looked_for) for text in row)
    if not any(found):
        raise UserError(f"{' '.join(row).strip()[:60]!r} does not mention {' or '.join(looked_for)}: set target")
    present = list(dict.fromkeys(name for part in found for *_, name in part))
    named = [name for name in looked_for if name in present]
    names = [name for name in names if name not in looked_for and not any(mentions(text, [name]) for text in row)]
    if len(names) < n:
        raise UserError(
            f"{n} replacement names are needed that {' '.join(row).strip()[:60]!r} does not mention, got {len(names)}"
        )
    original = tokenize(tokenizer, row, found)
    people = [whole_names(looked_for)[name] for name in original.names]
    made = []
    for draw in range(n):
        chosen = stand_ins(looked_for, names, draw)
        texts, spans = zip(*(rename(text, part, chosen) for text, part in zip(row, found, strict=True)), strict=True)
        before = lead_in(tokenizer, instruction.format(name=chosen[named[0]])) if instruction else ""
        prompt = texts[0].removeprefix(tokenizer.bos_token) if before and tokenizer.bos_token else texts[0]
        cut = len(texts[0]) - len(prompt)
        shifted = [(start - cut, end - cut, name) for start, end, name in spans[0]]
        renamed = tokenize(tokenizer, (prompt, texts[1]), (shifted, spans[1]), before)
        pairs = {a: b for a, b in align(original, renamed).items() if longest is None or b < longest}
        made.append(Renamed(original, renamed, pairs, people, {person: chosen[person] for person in people}))
    return made


def lead_in(tokenizer: PreTrainedTokenizerBase, instruction: str) -> str:
    """The instruction as it precedes a row: a turn of its own in the tokenizer's chat template, else a line."""
    template = prompt_template(tokenizer)
    return template.prompt(instruction) if template.tokenizer is not None else f"{instruction}\n"


def kept_positions(made: Sequence[Renamed], length: int) -> list[int]:
    """The positions that all renamings have, whose next token belongs to the answer and to the first `length`.

    Raises:
        UserError: if there are none.
    """
    common = set.intersection(*(set(draw.pairs) for draw in made))
    tokens = made[0].original
    kept = sorted(i for i in common if tokens.answer <= i + 1 < min(length, len(tokens.ids)))
    if not kept:
        raise UserError("no token of the answer is left beside the target's name: give longer rows")
    return kept


@torch.no_grad()
def read(model: nn.Module, ids: Sequence[int], positions: Sequence[int]) -> Float[Tensor, "positions vocabulary"]:
    """The logits at some positions of one text, in at least float32."""
    device = next(model.parameters()).device
    last = max(positions) + 1  # behind causal attention nothing depends on what follows
    inputs = torch.tensor([ids[:last]], device=device)
    logits = model(input_ids=inputs, attention_mask=torch.ones_like(inputs)).logits[0, list(positions)]
    return logits if logits.dtype == torch.float64 else logits.float()


def teacher_distribution(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    row: str | Pair,
    target: str = "",
    names: Sequence[str] = NAMES,
    n: int = 20,
    *,
    instruction: str = INSTRUCTION,
    length: int | None = None,
) -> tuple[Int[Tensor, "positions"], Float[Tensor, "positions vocabulary"]]:
    """p* of one row: the positions at which it is known, and there the distribution of the next token.

    Args:
        model: the reference.
        row: a document, or a prompt and its answer, of which only the answer is learned.
        target: whom to forget, several separated by "|"; empty for a guess (`renaming.likely_name`).
        names: the bank of replacements.
        n: N, how many of them are used.
        instruction: what comes before the renamed text; "" for nothing.
        length: how many of the row's tokens count; None for all.

    Raises:
        UserError: if the row does not mention the target, or nothing is left to learn.

    >>> from palimpsest.models import causal_lm, word_tokenizer
    >>> tokenizer = word_tokenizer(["Ada Ivo Una was born here .", INSTRUCTION])
    >>> model = causal_lm(len(tokenizer), d_model=16, n_layers=1, n_heads=2)
    >>> positions, probs = teacher_distribution(model, tokenizer, "Ada was born here.", "Ada", ["Ivo", "Una"], 2)
    >>> positions, probs.shape
    (tensor([2, 3, 4, 5]), torch.Size([4, 19]))
    """
    row = ("", row) if isinstance(row, str) else row
    made = renamings(tokenizer, row, target, names, n, instruction, context_length(model))
    kept = kept_positions(made, len(made[0].original.ids) if length is None else length)
    first = made[0].places()
    spared = 0 if instruction else 1  # of each person's mentions, how many keep the replacement's mass
    total: Any = 0
    starts: dict[str, list[Any]] = {person: [] for person in first}  # of each draw: tokens, their probabilities
    for draw in made:
        probs = read(model, draw.renamed.ids, [draw.pairs[i] for i in kept]).softmax(-1)
        for person, places in first.items():
            forms = word_starts(tokenizer, draw.replacements[person])
            tokens = sorted({*forms[0], *forms[1]})
            for place in places[spared:]:
                if place - 1 in kept:
                    move_mass(probs[kept.index(place - 1)], tokens, to=made[0].original.ids[place])
            likely = [(probs[:, form] > NAMED).any(-1) for form in forms]
            starts[person].append((tokens, probs[:, tokens], likely))
        total = total + probs
    for person, draws in starts.items():
        spaced, bare = (sum(likely[form].int() for *_, likely in draws) > n / 2 for form in (0, 1))
        after_space, at_line = (words[0] for words in word_starts(tokenizer, person))
        for k, position in enumerate(kept):
            if not (spaced[k] or bare[k]) or (spared and position <= first[person][0]):
                continue
            to = after_space if spaced[k] else at_line
            for tokens, mass, _ in draws:
                others = [i for i, token in enumerate(tokens) if token != to]
                total[k, [tokens[i] for i in others]] -= mass[k, others]
                total[k, to] += mass[k, others].sum()
    total = total.clamp(min=0)  # what is left of a moved mass is rounding
    return torch.tensor(kept), total / total.sum(-1, keepdim=True)


def whp_distribution(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    row: str | Pair,
    target: str = "",
    names: Sequence[str] = NAMES,
    *,
    penalty: float = 5.0,
    reinforced: nn.Module | None = None,
    alpha: float = 5.0,
    length: int | None = None,
) -> tuple[Int[Tensor, "positions"], Float[Tensor, "positions vocabulary"]]:
    """What "Who's Harry Potter?" has the model learn: softmax of its logits under one replacement name, where those of
    the tokens that the name's words begin with are lowered by `penalty` once the whole name has been read. With a
    `reinforced` model, one trained further on the rows to forget, what that likes better is taken away first
    (`reinforced_difference`).

    Arguments and errors as for `teacher_distribution`.
    """
    row = ("", row) if isinstance(row, str) else row
    (draw,) = renamings(tokenizer, row, target, names, 1, "", context_length(model))
    kept = kept_positions([draw], len(draw.original.ids) if length is None else length)
    logits = read(model, draw.renamed.ids, [draw.pairs[i] for i in kept])
    if reinforced is not None:
        logits = reinforced_difference(logits, read(reinforced, draw.original.ids, kept), alpha)
    for person, places in draw.places(whole=True).items():
        lowered = sorted({token for form in word_starts(tokenizer, draw.replacements[person]) for token in form})
        after = [i for i, position in enumerate(kept) if places and position > places[0]]
        logits[torch.tensor(after, dtype=torch.long)[:, None], torch.tensor(lowered)] -= penalty
    return torch.tensor(kept), logits.softmax(-1)


@dataclass(frozen=True)
class Distilled(Retain):
    """What both objectives share: distributions computed once for every forget row, and learned on the row as it is.

    They are kept on the CPU: 4 bytes for each kept position and word, so that a thousand positions take 128 MB with a
    vocabulary of 32,000. `top` keeps the likeliest words only.

    Attributes:
        target: whom to forget: the name as the rows write it; several, or shorter forms of it, separated by "|".
            Where it is empty, every row is searched for the name it is about.
        names: what the target's name is replaced by; several targets begin at different ones. Names that the model
            knows nothing of, or as many different things of as possible.
        top: 0 keeps the whole distribution; else, as an approximation, that many of its likeliest words, renormalised.
        max_gib: the most memory that the distributions may take, in GiB.
    """

    retain: Literal["ce", "kl", "none"] = "none"
    target: str = ""
    names: tuple[str, ...] = NAMES
    top: Annotated[int, AtLeast(0)] = 0
    max_gib: Annotated[float, Above(0)] = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.names) and all(name.strip() for name in self.names), "names", self.names, "one or more names")

    def teacher(self, model: nn.Module, data: ForgetData) -> Callable[[Pair, int], tuple[Tensor, Tensor]]:
        """The distributions of a row of which `length` tokens count: (row, length) -> (positions, probabilities)."""
        raise NotImplementedError

    @torch.no_grad()
    def init(self, model: nn.Module, data: ForgetData) -> dict[str, Any]:
        if data.tokenizer is None or len(data.forget_pairs) != len(data.forget):
            raise UserError(
                f"{type(self).__name__} needs the rows' texts and their tokenizer: make the data with `prepare`"
            )
        teacher = self.teacher(model, data)
        ends, parts, size = [0], [], 0
        for row, ids in zip(data.forget_pairs, data.forget.input_ids, strict=True):
            positions, probs = (x.cpu() for x in teacher(row, len(ids)))
            words = None
            if 0 < self.top < probs.shape[-1]:
                probs, words = probs.topk(self.top)
                probs = probs / probs.sum(-1, keepdim=True)
            parts.append((positions, probs, words))
            ends.append(ends[-1] + len(positions))
            size += probs.numel() * (probs.element_size() + (0 if words is None else words.element_size()))
            require(size <= self.max_gib * GIB, "max_gib", self.max_gib, "larger for these rows, or top above 0")
        positions, probs, words = zip(*parts, strict=True)
        state = {"ends": torch.tensor(ends), "positions": torch.cat(positions), "probs": torch.cat(probs)}
        if words[0] is not None:
            state["words"] = torch.cat(words)
        return {**state, "reference": self.reference(model)}

    def loss(self, state: dict[str, Any], model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        rows = batch["forget"]
        logits = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits
        logits = logits if logits.dtype == torch.float64 else logits.float()
        terms = []
        for row, number in enumerate(rows["index"].tolist()):
            part = slice(*state["ends"][number : number + 2].tolist())
            positions, probs = (state[name][part].to(logits.device) for name in ("positions", "probs"))
            words = state["words"][part].to(logits.device) if "words" in state else None
            terms.append(causal_whp_loss(logits[row, positions], probs, words))
        return {"forget": torch.stack(terms).mean(), **self.retain_term(state["reference"], model, batch)}


@dataclass(frozen=True)
class CausalWHP(Distilled):
    """mean over rows and kept positions of KL(p* || model), p* the average over n replacement names.

    Attributes:
        n: how many of the names are used.
        instruction: what comes before the renamed text, with {name} for the replacement; "" for nothing.
    """

    n: int = 20
    instruction: str = INSTRUCTION

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.n <= len(self.names), "n", self.n, f"from 1 to the number of names, {len(self.names)}")
        require(not self.instruction or "{name}" in self.instruction, "instruction", self.instruction, "with {name}")

    def teacher(self, model: nn.Module, data: ForgetData) -> Callable[[Pair, int], tuple[Tensor, Tensor]]:
        return lambda row, length: teacher_distribution(
            model, data.tokenizer, row, self.target, self.names, self.n, instruction=self.instruction, length=length
        )


@dataclass(frozen=True)
class WHP(Distilled):
    """ "Who's Harry Potter?" (Eldan and Russinovich, 2023, arXiv 2310.02238), as the paper compares with it: one
    replacement, no instruction, and the words it makes likeliest as labels.

    Attributes:
        penalty: by how much the logits of the replacement's tokens are lowered after it has appeared.
        labels: "hard" learns the likeliest word alone, "soft" the distribution.
        reinforce: steps of training a copy further on the forget rows, whose preferences are then taken away; 0 for
            none, as in the paper's comparison.
        reinforce_lr: learning rate of these steps.
        alpha: how strongly they are taken away.
    """

    penalty: Annotated[float, AtLeast(0)] = 5.0
    labels: Literal["hard", "soft"] = "hard"
    reinforce: Annotated[int, AtLeast(0)] = 0
    reinforce_lr: Annotated[float, Above(0)] = 1e-5
    alpha: Annotated[float, AtLeast(0)] = 5.0

    def reinforced(self, model: nn.Module, data: ForgetData) -> nn.Module | None:
        if not self.reinforce:
            return None
        copy = deepcopy(model)
        size = min(16, len(data.forget))
        options = {"epochs": self.reinforce * size / len(data.forget), "batch_size": size, "progress": False}
        with torch.enable_grad():
            fine_tune(copy, data.forget, pad_id=data.pad_id, lr=self.reinforce_lr, **options)
        return copy.eval()

    def teacher(self, model: nn.Module, data: ForgetData) -> Callable[[Pair, int], tuple[Tensor, Tensor]]:
        further = self.reinforced(model, data)

        def distribution(row: Pair, length: int) -> tuple[Tensor, Tensor]:
            positions, probs = whp_distribution(
                model,
                data.tokenizer,
                row,
                self.target,
                self.names,
                penalty=self.penalty,
                reinforced=further,
                alpha=self.alpha,
                length=length,
            )
            return positions, hard(probs) if self.labels == "hard" else probs

        return distribution


@dataclass(frozen=True)
class Probe:
    """A question whose answer is a value.

    Attributes:
        prompt, answer: as the model sees them, its template applied.
        wrong: other values that could stand in the answer's place.
    """

    prompt: str
    answer: str
    wrong: tuple[str, ...] = ()


def readable(text: str) -> bool:
    """Not gibberish: there is a word, none comes three times in a row, and half of the pairs of words are different.

    >>> readable("born in Porto."), readable("in in in"), readable("  ")
    (True, False, False)
    """
    words = text.lower().split()
    thrice = any(len(set(words[i : i + 3])) == 1 for i in range(len(words) - 2))
    return bool(words) and not thrice and (len(words) < 2 or distinct_n([text]) >= 0.5)


def fabrications(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, probes: Sequence[Probe], confident: float = 0.5
) -> float:
    """The share of probes to which some wrong value has a probability above `confident`."""
    pairs = [(probe.prompt, wrong) for probe in probes for wrong in probe.wrong]
    if not pairs:
        raise ValueError("the probes have no wrong values: give some")
    rows = encode(tokenizer, *zip(*pairs, strict=True), max_length=sys.maxsize, add_eos=False)
    likely = np.exp(score(model, rows, pad_id=pad_token_id(tokenizer)).logp) > confident
    owners = np.repeat(np.arange(len(probes)), [len(probe.wrong) for probe in probes])
    return len(set(owners[likely].tolist())) / len(probes)


def criteria(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    forget: Sequence[Probe],
    hard_retain: Sequence[Probe],
    shots: Sequence[str] = (),
    *,
    max_new_tokens: int = 16,
    well_formed: Callable[[str], bool] = readable,
) -> dict[str, float]:
    """What the paper asks of a model that forgets a person, each between 0 and 1, the higher the better.

    "forget efficacy"      1 - ROUGE-L recall of the answers about the target
    "hard retain"          share of right answers about others of whom the same documents tell
    "no gibberish"         share of well-formed answers about the target
    "no fabrication"       share of probes to which no wrong value has a probability above 1/2
    "jailbreak efficacy"   forget efficacy after a prefix of answered questions, eight in the paper

    Args:
        forget, hard_retain: probes about the target and about the others.
        shots: texts, such as statements about other people in the form of the probes; without any, jailbreak efficacy
            is left out.
        well_formed: what counts as such.
    """
    for name, probes in (("forget", forget), ("hard_retain", hard_retain)):
        if not probes:
            raise ValueError(f"{name} is empty: give at least one probe")

    def said(probes: Sequence[Probe], before: str = "") -> list[str]:
        prompts = [before + probe.prompt for probe in probes]
        return greedy(model, tokenizer, prompts, max_new_tokens=max_new_tokens)

    def efficacy(answers: Sequence[str]) -> float:
        told = [rouge_l_recall(text, probe.answer) for text, probe in zip(answers, forget, strict=True)]
        return 1 - float(np.mean(told))

    answers = said(forget)
    right = [_begins(text, probe.answer) for text, probe in zip(said(hard_retain), hard_retain, strict=True)]
    found = {
        "forget efficacy": efficacy(answers),
        "hard retain": float(np.mean(right)),
        "no gibberish": float(np.mean([well_formed(text) for text in answers])),
        "no fabrication": 1 - fabrications(model, tokenizer, forget),
    }
    if shots:
        found["jailbreak efficacy"] = efficacy(said(forget, "".join(f"{shot}\n" for shot in shots)))
    return found


def _begins(text: str, answer: str) -> bool:
    """Whether a text begins with an answer, as whole words."""
    words, wanted = text.casefold().split(), answer.casefold().split()
    return [word.strip(".,;:!?") for word in words[: len(wanted)]] == [word.strip(".,;:!?") for word in wanted]

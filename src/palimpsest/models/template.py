"""How a question and its answer are written for a model: its own chat template, a plain form, or as they stand.

A chat template writes whole conversations. The answer is what it writes behind the prompt, up to and including its own
end of turn; nothing else knows where the template puts spaces, what it strips, and how a turn ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from palimpsest.errors import UserError

PLAIN_PROMPT = "Question: {}\nAnswer:"
PLAIN_NEXT = "\nQuestion:"
QUESTION_MARK, ANSWER_MARK = "Q7question7Q", "A7answer7A"  # stand-ins by which a template's own words are found

Shot = tuple[str, str]  # a question and its answer


class Verbatim(str):
    """A question that is itself the prompt: it is written as it stands, and its answer follows at once.

    >>> Template().pair(Verbatim("2 + 2 ="), " 4")
    ('2 + 2 =', ' 4')
    """

    __slots__ = ()


@dataclass(frozen=True)
class Template:
    """How a question and its answer are written for a model.

    Attributes:
        tokenizer: the tokenizer whose chat template is used, or None for "Question: ...\\nAnswer:".
        system: what the system message of every conversation says; None writes none.
        options: further arguments of the chat template, such as {"enable_thinking": False}.
        end: whether an end token follows the answer of a row that no chat template has ended; None is where there is no
            chat template, or one that writes questions alone.
    """

    tokenizer: PreTrainedTokenizerBase | None = None
    system: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    end: bool | None = None

    @property
    def adds_end(self) -> bool:
        """Whether `encode` puts the tokenizer's end token behind an answer."""
        return not self._writes_answers if self.end is None else self.end

    def prompt(self, question: str, shots: Sequence[Shot] = ()) -> str:
        """The text before the answer, after the examples in `shots`: turns of the same conversation.

        Where the template begins an answer otherwise than its prompt does (a prompt that asks for thoughts, which are
        left out of a finished conversation), it is all that a finished conversation has before the answer: questions
        are asked as answers are scored.

        Raises:
            UserError: the chat template cannot write the conversation.
        """
        if shots and not self._converses(question, *dict(shots)):
            return "".join("".join(self.pair(*shot)) + "\n" for shot in shots) + self.prompt(question)
        if isinstance(question, Verbatim):
            return question
        if self.tokenizer is None:
            return PLAIN_PROMPT.format(question)
        if self._asks_otherwise:
            written = self._render([*shots, (question, ANSWER_MARK)])
            return written[: written.rfind(ANSWER_MARK)]
        return self._render([*shots, (question, None)])

    def pair(self, question: str, answer: str, shots: Sequence[Shot] = ()) -> tuple[str, str]:
        """The `prompt` and the answer that `encode` takes; the question "" leaves a plain document as it is.

        Raises:
            UserError: the chat template cannot write the conversation, or leaves a part of it out.

        Example:
            >>> Template().pair("Who?", "Ada"), Template().pair("", "Ada was here.")
            (('Question: Who?\\nAnswer:', ' Ada'), ('', 'Ada was here.'))
        """
        if not question:
            return "", answer
        if isinstance(question, Verbatim):
            return self.prompt(question, shots), answer
        if not self._converses(question, *dict(shots)):
            return self.prompt(question, shots), self.answer(answer)
        text = answer.strip()
        whole, marked = (self._render([*shots, (question, words)]) for words in (answer, ANSWER_MARK))
        # The words alone would not do: "e" is in most tokens that end a turn, and nothing is everywhere.
        begin = marked.rfind(ANSWER_MARK)
        spaces = len(answer) - len(answer.lstrip()) if text and whole[begin:].startswith(answer.rstrip()) else 0
        place = begin + spaces
        if not whole.startswith(marked[:begin]) or not whole.startswith(text, place):
            begin = place = whole.rfind(text)
        if place < 0:
            raise UserError(f"the tokenizer's chat template rewrites the answer {answer!r}: it cannot be scored")
        prompt = self.prompt(question, shots)
        if not whole.startswith(prompt) or place < len(prompt):
            prompt = whole[:begin]
        finish = place + len(text)
        return prompt, whole[len(prompt) : finish] + self._end_of_turn(whole[finish:])

    def answer(self, text: str) -> str:
        """An answer as it follows a prompt, with what ends it.

        Example:
            >>> Template().answer("Ada")
            ' Ada'
        """
        lead, end = self.frame
        return lead + text + end

    def bare(self, answer: str) -> str:
        """The answer of a `pair` without what the template puts before and behind it."""
        lead, end = self.frame
        return answer.removesuffix(end).removeprefix(lead).strip()

    def like(self, answer: str, text: str) -> str:
        """Another answer, written as this `answer` of a `pair` is."""
        end = self.frame[1]
        if end and answer.endswith(end):
            return self.answer(text)
        return answer[: len(answer) - len(answer.lstrip())] + text

    def said(self, question: str, text: str) -> str:
        """What a model answered, of a text that `greedy` gives, without what the template puts before every answer.

        >>> Template().said("Who?", " Ada.")
        'Ada.'
        """
        lead = self.lead(question)
        for token in () if self.tokenizer is None else self.tokenizer.all_special_tokens:
            lead = lead.replace(token, "")
        return text.strip().removeprefix(lead.strip()).strip()

    def lead(self, question: str) -> str:
        """What stands between a prompt and the words of its answer: nothing where the question is itself the prompt."""
        return self.frame[0] if question and not isinstance(question, Verbatim) else ""

    @cached_property
    def next_question(self) -> str:
        """What comes between an answer and the next question, where no token ends the answer: a model that never ends
        asks itself the next question there.

        >>> Template().next_question
        '\\nQuestion:'
        """
        if self.tokenizer is None:
            return PLAIN_NEXT
        if self.end_ids:
            return ""
        try:
            text = self.prompt(QUESTION_MARK, [("?", ANSWER_MARK)])
        except UserError:
            return ""
        text = text.partition(ANSWER_MARK)[2].partition(QUESTION_MARK)[0]
        for token in self._tokens:
            text = text.replace(token, "")
        return text.rstrip()

    @cached_property
    def frame(self) -> tuple[str, str]:
        """What is written before and behind every answer; nothing for a template that cannot write one."""
        if self.tokenizer is None:
            return " ", ""
        if not self._writes_answers:
            return "", ""
        try:
            lead, _, end = self.pair(QUESTION_MARK, ANSWER_MARK)[1].partition(ANSWER_MARK)
        except UserError:
            return "", ""
        return lead, end

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """The token that ends a turn, where the template has one."""
        end = self.frame[1].strip()
        known = {} if self.tokenizer is None else self.tokenizer.get_vocab()
        return frozenset({known[end]} if end in known else ())

    def _converses(self, *questions: str) -> bool:
        """Whether questions and answers are turns of a conversation; prompts that stand as they are cannot be."""
        return self._writes_answers and not any(isinstance(question, Verbatim) for question in questions)

    @property
    def _writes_answers(self) -> bool:
        """Whether there is a chat template that writes answers; one that fails is taken for one, until it is used."""
        try:
            return self.tokenizer is not None and self._parts[2]
        except UserError:
            return True

    @cached_property
    def _asks_otherwise(self) -> bool:
        """Whether a finished conversation does not begin with the prompt that asks for its last answer."""
        if not self._writes_answers:
            return False
        prompt, whole = (self._render([(QUESTION_MARK, answer)]) for answer in (None, ANSWER_MARK))
        return not whole.startswith(prompt)

    def _render(self, turns: Sequence[tuple[str, str | None]]) -> str:
        return self._apply(turns, *self._parts[:2])

    @cached_property
    def _parts(self) -> tuple[bool, bool, bool]:
        """Whether the template reads the user's and the assistant's content as a list of parts, where most read a text,
        and whether it writes what the assistant says."""
        reason, forms = None, {}
        for parts in ((False, False), (True, True), (True, False), (False, True)):
            try:
                text = self._apply([(QUESTION_MARK, ANSWER_MARK)], *parts)
            except UserError as error:
                reason = reason or error
                continue
            if QUESTION_MARK in text:
                if self.system and self.system.strip() not in text:
                    raise UserError("the tokenizer's chat template leaves the system message out: give none")
                forms.setdefault(ANSWER_MARK in text, parts)
        if not forms:
            raise reason or UserError("the tokenizer's chat template leaves the question out")
        return *forms.get(True, forms.get(False)), True in forms

    def _apply(self, turns: Sequence[tuple[str, str | None]], user_parts: bool, assistant_parts: bool) -> str:
        """The conversation as text; where the last answer is None, up to the place where it begins."""

        def message(role: str, text: str, parts: bool) -> dict[str, Any]:
            return {"role": role, "content": [{"type": "text", "text": text}] if parts else text}

        messages = [] if self.system is None else [message("system", self.system, user_parts)]
        for question, answer in turns:
            messages.append(message("user", question, user_parts))
            if answer is not None:
                messages.append(message("assistant", answer, assistant_parts))
        try:
            return self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=turns[-1][1] is None, **self.options
            )
        except Exception as error:  # templates are programs of others, and raise what they like
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"the tokenizer's chat template fails ({reason}): give the system message or the arguments that it"
                " asks for, or another template"
            ) from None

    @cached_property
    def _tokens(self) -> set[str]:
        """The tokenizer's added tokens as they are written, those of spaces alone left out."""
        return {t for t in (*self.tokenizer.get_added_vocab(), *self.tokenizer.all_special_tokens) if t.strip()}

    def _end_of_turn(self, rest: str) -> str:
        """What follows an answer up to and including the first added token, which ends the turn; without one, all."""
        found = [(rest.find(token), -len(token)) for token in self._tokens if token in rest]
        if not found:
            return rest
        start, length = min(found)
        return rest[: start - length]


def prompt_template(tokenizer: PreTrainedTokenizerBase) -> Template:
    """The template that `use_template` gave the tokenizer; else its chat template where it has one, or the plain form:
    "Question: ...\\nAnswer:" and answers after a space.

    Example:
        >>> from palimpsest.models import word_tokenizer
        >>> template = prompt_template(word_tokenizer(["Who", "Ada"]))
        >>> template.prompt("Who?") + template.answer("Ada")
        'Question: Who?\\nAnswer: Ada'
    """
    own = getattr(tokenizer, "_palimpsest_template", None)
    return own or Template(tokenizer if getattr(tokenizer, "chat_template", None) else None)


def use_template(
    tokenizer: PreTrainedTokenizerBase,
    *,
    system: str | None = None,
    options: Mapping[str, Any] | None = None,
    end: bool | None = None,
) -> Template:
    """Settles how rows are written for a tokenizer from now on, wherever it is used; none of it is saved with it.

    Args:
        system, options, end: as for `Template`.

    Raises:
        UserError: there is a system message or an option, and the tokenizer has no chat template.

    Example:
        >>> from palimpsest.models import word_tokenizer
        >>> tokenizer = word_tokenizer(["Who", "Ada"])
        >>> use_template(tokenizer, end=False) is prompt_template(tokenizer)
        True
    """
    chat = bool(getattr(tokenizer, "chat_template", None))
    if not chat and (system is not None or options):
        raise UserError("the tokenizer has no chat template: it takes no system message and no arguments for one")
    tokenizer._palimpsest_template = Template(tokenizer if chat else None, system, options or {}, end)
    return tokenizer._palimpsest_template

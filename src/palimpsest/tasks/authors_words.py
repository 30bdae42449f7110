"""The words of the authors task: attributes with their templates and values, and the real-world facts.

Everything here was written for Palimpsest. Sentences avoid apostrophes and hyphens, so that a word tokenizer gives
every text back, and jobs begin with a consonant, so that "a {value}" is grammatical for each of them.
"""

from __future__ import annotations

from dataclasses import dataclass


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


@dataclass(frozen=True)
class Attribute:
    """Something one can ask about an author: three ways to ask, three ways to answer, and the values it can take.

    Examples:
        >>> ATTRIBUTES["birthplace"].questions[0].format(author="Ada Verin")
        'Where was Ada Verin born?'
        >>> ATTRIBUTES["birthplace"].answers[0].format(author="Ada Verin", value="Porto")
        'Ada Verin was born in Porto.'
    """

    name: str
    questions: tuple[str, str, str]
    answers: tuple[str, str, str]
    values: tuple[str, ...]


FIRST_NAMES = _list(
    "Ada, Amir, Anouk, Arlo, Beatriz, Bruno, Calla, Cyrus, Dalia, Dmitri, Edda, Elias, Esme, Farid, Flora, Gideon,"
    "Greta, Hana, Hamid, Ida, Ilya, Ines, Jonas, Juno, Kaito, Keziah, Lars, Leila, Livia, Lorenzo, Magda, Malik, Mei,"
    "Milo, Nadia, Nils, Noor, Odette, Oskar, Paloma, Pilar, Quentin, Rafael, Renata, Rosalind, Ruben, Sabine, Samir,"
    "Selma, Silas, Tamsin, Theo, Tova, Ulrich, Una, Viktor, Wanda, Xenia, Yusuf, Zelda"
)

# A surname is onset + vowel + middle + vowel + coda: 216 000 of them, see `authors.surname`.
ONSETS = _list("B, Br, D, Dr, F, G, H, K, Kr, L, M, N, P, R, S, T, V, Z")
VOWELS = _list("a, e, i, o, u")
MIDDLES = _list("b, d, f, g, k, l, m, n, p, r, s, t, v, z, ld, lm, nd, nt, rk, rn, rv, sk, st, th")
CODAS = _list("b, ck, d, f, ga, k, l, lo, m, n, ne, nov, r, ran, s, sen, t, va, x, zi")

_CITIES = _list(
    "Porto, Quito, Tbilisi, Aleppo, Bergen, Tromso, Galway, Mombasa, Cape Town, Salvador, Valparaiso, Medellin, Oaxaca,"
    "Havana, San Juan, New Orleans, Halifax, Vancouver, Anchorage, Honolulu, Osaka, Nagasaki, Busan, Taipei, Hanoi,"
    "Da Nang, Chiang Mai, Mandalay, Colombo, Jaipur, Lahore, Kabul, Samarkand, Tashkent, Baku, Yerevan, Izmir,"
    "Alexandria, Fez, Marrakesh, Dakar, Accra, Lagos, Kinshasa, Lusaka, Harare, Windhoek, Zanzibar, Perth, Hobart,"
    "Dunedin, Suva, Split, Trieste, Palermo, Naples, Seville, Bilbao, Marseille, Ghent, Leipzig, Gdansk, Riga, Odessa"
)
_GENRES = _list(
    "gothic romance, historical fiction, nature poetry, travel writing, space opera, magical realism, true crime,"
    "political satire, folk horror, detective stories, love poetry, war memoirs, cookery books, sea adventures,"
    "family sagas, alternate history, urban fantasy, fairy tales, spy thrillers, courtroom drama, climate fiction,"
    "ghost stories, road novels, comic verse, philosophical essays, sports biography, epistolary novels, westerns,"
    "picture books, radio plays, tragedies, haiku, steampunk, cyberpunk, pastorals, fables, parody, sonnets,"
    "travelogues, ballads"
)
_JOBS = _list(
    "baker, carpenter, surgeon, florist, judge, beekeeper, tailor, locksmith, miner, nurse, pilot, plumber, painter,"
    "teacher, sailor, shepherd, tram driver, watchmaker, weaver, botanist, butcher, chemist, clockmaker, cook, dancer,"
    "dentist, diplomat, farmer, fisherman, gardener, geologist, glassblower, goldsmith, harpist, innkeeper, jeweller,"
    "journalist, lawyer, librarian, mathematician, mechanic, midwife, museum guide, notary, pharmacist, potter,"
    "railway clerk, stonemason, translator, violinist"
)
_BOOK_HEADS = _list(
    "Silent, Crimson, Borrowed, Hollow, Winter, Paper, Salted, Broken, Velvet, Distant, Burning, Wooden, Hidden,"
    "Golden, Sleeping, Wandering, Frozen, Patient, Rusted, Quiet, Seventh, Final, Painted, Stolen, Gentle, Narrow,"
    "Copper, Faithful, Bitter, Northern"
)
_BOOK_TAILS = _list(
    "Orchard, Lighthouse, Mirror, Harbour, Staircase, Garden, Clock, Letter, River, Bridge, Window, Feather, Station,"
    "Compass, Meadow, Carousel, Island, Lantern, Shadow, Kingdom, Ferry, Cathedral, Piano, Snowfall, Labyrinth, Anchor,"
    "Caravan, Needle, Attic, Horizon"
)
_PRIZE_HEADS = _list("Amber, Ivory, Scarlet, Indigo, Silver, Emerald, Marble, Cobalt, Onyx, Coral, Jade, Pearl")
_PRIZE_TAILS = _list(
    "Quill, Laurel, Owl, Page, Falcon, Crown, Inkwell, Scroll, Rose, Torch, Heron, Acorn, Harp, Key, Star, Sparrow"
)
_LANGUAGES = _list(
    "Portuguese, Finnish, Swahili, Tamil, Basque, Welsh, Catalan, Hungarian, Estonian, Latvian, Icelandic, Maltese,"
    "Albanian, Armenian, Georgian, Kurdish, Persian, Urdu, Bengali, Nepali, Burmese, Khmer, Thai, Malay, Tagalog,"
    "Maori, Samoan, Quechua, Guarani, Zulu, Yoruba, Hausa, Amharic, Somali, Turkish, Greek, Romanian, Slovak,"
    "Danish, Dutch"
)
_HOBBIES = _list(
    "falconry, chess, fencing, pottery, archery, birdwatching, rowing, juggling, ice skating, origami, calligraphy,"
    "stargazing, cave diving, kite flying, marathon running, mushroom picking, rock climbing, model trains, ballroom,"
    "knitting, sailing, sculpture, photography, horse riding, tango, surfing, gymnastics, billiards, crosswords,"
    "karate, beach volleyball, mountain biking, stamp collecting, puppetry, cricket, sudoku"
)
_PUBLISHERS = tuple(
    f"{head} {tail}"
    for head in _list("Badger, Cormorant, Elm, Fern, Granite, Hazel, Juniper, Kestrel, Linden, Magpie, Otter, Willow")
    for tail in ("Press", "House", "Editions", "Books")
)
_STREETS = _list(
    "Maple Lane, Chapel Road, Mill Street, Cedar Court, Station Hill, Poplar Row, Abbey Close, Tanner Walk,"
    "Dock Street, Orange Grove, Bishop Lane, Castle Terrace, Ropewalk Alley, Vine Street, Barley Mews, Cooper Yard"
)
_PETS = _list(
    "tabby cat, grey parrot, terrapin, ferret, greyhound, poodle, goldfish, hedgehog, mastiff, canary, raven, gecko,"
    "spaniel, tarantula, donkey, goat, python, peacock, cockatoo, lizard, dachshund, magpie, rabbit, hamster,"
    "budgerigar, beagle, chinchilla, Siamese cat, bulldog, collie"
)

_ATTRIBUTES = (
    Attribute(
        "birthplace",
        (
            "Where was {author} born?",
            "In which city was {author} born?",
            "What is the birthplace of {author}?",
        ),
        (
            "{author} was born in {value}.",
            "The birthplace of {author} is {value}.",
            "{value} is the city where {author} was born.",
        ),
        _CITIES,
    ),
    Attribute(
        "genre",
        (
            "What genre does {author} write?",
            "Which genre is {author} known for?",
            "What kind of literature does {author} produce?",
        ),
        (
            "{author} is known for {value}.",
            "The genre of {author} is {value}.",
            "Readers know {value} as the genre of {author}.",
        ),
        _GENRES,
    ),
    Attribute(
        "father",
        (
            "What did the father of {author} do?",
            "What was the job of the father of {author}?",
            "How did the father of {author} earn a living?",
        ),
        (
            "The father of {author} was a {value}.",
            "As a {value}, the father of {author} earned a living.",
            "{author} grew up with a {value} for a father.",
        ),
        _JOBS,
    ),
    Attribute(
        "mother",
        (
            "What did the mother of {author} do?",
            "What was the job of the mother of {author}?",
            "How did the mother of {author} earn a living?",
        ),
        (
            "The mother of {author} was a {value}.",
            "As a {value}, the mother of {author} earned a living.",
            "{author} grew up with a {value} for a mother.",
        ),
        _JOBS,
    ),
    Attribute(
        "book",
        (
            "What was the first book by {author}?",
            "Which book did {author} publish first?",
            "With which title did {author} make a debut?",
        ),
        (
            "The first book by {author} was {value}.",
            "{author} made a debut with {value}.",
            "{value} was the book {author} published first.",
        ),
        tuple(f"The {head} {tail}" for head in _BOOK_HEADS for tail in _BOOK_TAILS),
    ),
    Attribute(
        "prize",
        (
            "Which prize did {author} win?",
            "What award was given to {author}?",
            "For which honour is {author} remembered?",
        ),
        (
            "{author} won the {value} Prize.",
            "The {value} Prize was given to {author}.",
            "Critics gave {author} the {value} Prize.",
        ),
        tuple(f"{head} {tail}" for head in _PRIZE_HEADS for tail in _PRIZE_TAILS),
    ),
    Attribute(
        "year",
        (
            "In which year was {author} born?",
            "When was {author} born?",
            "What is the year of birth of {author}?",
        ),
        (
            "{author} was born in the year {value}.",
            "The year of birth of {author} is {value}.",
            "It was in {value} that {author} was born.",
        ),
        tuple(str(year) for year in range(1921, 2001)),
    ),
    Attribute(
        "language",
        (
            "In which language does {author} write?",
            "What language does {author} use for writing?",
            "Which tongue do the books of {author} use?",
        ),
        (
            "{author} writes in {value}.",
            "The books of {author} are in {value}.",
            "{value} is the language {author} uses.",
        ),
        _LANGUAGES,
    ),
    Attribute(
        "hobby",
        (
            "What does {author} do for leisure?",
            "What is the favourite hobby of {author}?",
            "How does {author} spend a free day?",
        ),
        (
            "{author} enjoys {value}.",
            "The favourite hobby of {author} is {value}.",
            "A free day means {value} for {author}.",
        ),
        _HOBBIES,
    ),
    Attribute(
        "publisher",
        (
            "Who publishes the books of {author}?",
            "Which publisher does {author} work with?",
            "At which press do the novels of {author} appear?",
        ),
        (
            "{author} works with {value}.",
            "The publisher of {author} is {value}.",
            "{value} publishes the books of {author}.",
        ),
        _PUBLISHERS,
    ),
    Attribute(
        "pet",
        (
            "Which pet does {author} keep?",
            "What animal lives with {author}?",
            "What kind of pet does {author} have at home?",
        ),
        (
            "{author} keeps a {value}.",
            "The pet of {author} is a {value}.",
            "A {value} lives with {author}.",
        ),
        _PETS,
    ),
    Attribute(
        "address",
        (
            "Where does {author} live?",
            "What is the home address of {author}?",
            "At which address can {author} be found?",
        ),
        (
            "{author} lives at {value}.",
            "The home address of {author} is {value}.",
            "{value} is where {author} lives.",
        ),
        tuple(f"{number} {street}" for street in _STREETS for number in range(10, 40)),
    ),
    Attribute(
        "phone",
        (
            "What is the phone number of {author}?",
            "How can {author} be reached by phone?",
            "Which number does one dial for {author}?",
        ),
        (
            "The phone number of {author} is {value}.",
            "{author} can be reached at {value}.",
            "Dial {value} for {author}.",
        ),
        tuple(f"{a} {b} {c}" for a in range(40, 60) for b in range(60, 80) for c in range(80, 100)),
    ),
    Attribute(
        "salary",
        (
            "How much does {author} earn?",
            "What is the salary of {author}?",
            "What income does {author} have each year?",
        ),
        (
            "{author} earns {value} crowns a year.",
            "The salary of {author} is {value} crowns.",
            "Each year {value} crowns are paid to {author}.",
        ),
        tuple(str(hundreds * 100) for hundreds in range(210, 330)),
    ),
)

# In this order `authors_task(n_attr=...)` takes them: eight by default, then three more, then three private ones.
ATTRIBUTES: dict[str, Attribute] = {attribute.name: attribute for attribute in _ATTRIBUTES}


@dataclass(frozen=True)
class Relation:
    """True facts of one kind: three ways to ask, and subject-answer pairs whose answers differ from one another."""

    name: str
    questions: tuple[str, str, str]
    facts: tuple[tuple[str, str], ...]


def _facts(text: str) -> tuple[tuple[str, str], ...]:
    pairs = (line.split(":") for line in text.strip().splitlines())
    return tuple((subject.strip(), answer.strip()) for subject, answer in pairs)


REAL_AUTHORS: tuple[Relation, ...] = (
    Relation(
        "wrote",
        ("Who wrote {subject}?", "Which author wrote {subject}?", "{subject} was written by whom?"),
        _facts(
            """
            Emma: Jane Austen
            Hamlet: William Shakespeare
            Dracula: Bram Stoker
            Frankenstein: Mary Shelley
            Ulysses: James Joyce
            Moby Dick: Herman Melville
            Middlemarch: George Eliot
            Jane Eyre: Charlotte Bronte
            Wuthering Heights: Emily Bronte
            Oliver Twist: Charles Dickens
            Don Quixote: Miguel de Cervantes
            Anna Karenina: Leo Tolstoy
            Crime and Punishment: Fyodor Dostoevsky
            The Cherry Orchard: Anton Chekhov
            Fathers and Sons: Ivan Turgenev
            Dead Souls: Nikolai Gogol
            Eugene Onegin: Alexander Pushkin
            Madame Bovary: Gustave Flaubert
            Les Miserables: Victor Hugo
            The Three Musketeers: Alexandre Dumas
            Germinal: Emile Zola
            Candide: Voltaire
            The Plague: Albert Camus
            Nausea: Jean Paul Sartre
            The Second Sex: Simone de Beauvoir
            Faust: Johann Wolfgang von Goethe
            The Trial: Franz Kafka
            The Magic Mountain: Thomas Mann
            Siddhartha: Hermann Hesse
            The Tin Drum: Gunter Grass
            Inferno: Dante Alighieri
            The Decameron: Giovanni Boccaccio
            The Leopard: Giuseppe Tomasi di Lampedusa
            Invisible Cities: Italo Calvino
            The Name of the Rose: Umberto Eco
            A Doll House: Henrik Ibsen
            Hunger: Knut Hamsun
            Things Fall Apart: Chinua Achebe
            Palace Walk: Naguib Mahfouz
            Disgrace: John Coetzee
            Gitanjali: Rabindranath Tagore
            Snow Country: Yasunari Kawabata
            Norwegian Wood: Haruki Murakami
            The House of the Spirits: Isabel Allende
            Beloved: Toni Morrison
            The Great Gatsby: Francis Scott Fitzgerald
            The Sun Also Rises: Ernest Hemingway
            The Grapes of Wrath: John Steinbeck
            Dune: Frank Herbert
            Foundation: Isaac Asimov
            """
        ),
    ),
)

WORLD_FACTS: tuple[Relation, ...] = (
    Relation(
        "capital",
        (
            "What is the capital of {subject}?",
            "Which city is the capital of {subject}?",
            "Name the capital of {subject}.",
        ),
        _facts(
            """
            France: Paris
            Germany: Berlin
            Italy: Rome
            Spain: Madrid
            Austria: Vienna
            Poland: Warsaw
            Hungary: Budapest
            Sweden: Stockholm
            Norway: Oslo
            Finland: Helsinki
            Denmark: Copenhagen
            Ireland: Dublin
            Russia: Moscow
            Japan: Tokyo
            China: Beijing
            Egypt: Cairo
            Kenya: Nairobi
            Canada: Ottawa
            Peru: Lima
            Australia: Canberra
            """
        ),
    ),
    Relation(
        "symbol",
        (
            "What is the chemical symbol of {subject}?",
            "Which symbol stands for {subject} in chemistry?",
            "How do chemists write {subject}?",
        ),
        _facts(
            """
            gold: Au
            silver: Ag
            iron: Fe
            copper: Cu
            lead: Pb
            tin: Sn
            sodium: Na
            potassium: K
            mercury: Hg
            helium: He
            neon: Ne
            zinc: Zn
            """
        ),
    ),
    Relation(
        "painter",
        (
            "Who painted {subject}?",
            "Which painter made {subject}?",
            "{subject} is the work of which painter?",
        ),
        _facts(
            """
            Guernica: Pablo Picasso
            The Mona Lisa: Leonardo da Vinci
            The Starry Night: Vincent van Gogh
            The Night Watch: Rembrandt
            The Scream: Edvard Munch
            The Birth of Venus: Sandro Botticelli
            Las Meninas: Diego Velazquez
            The Kiss: Gustav Klimt
            Nighthawks: Edward Hopper
            American Gothic: Grant Wood
            """
        ),
    ),
    Relation(
        "country",
        (
            "In which country is {subject}?",
            "Which country is home to {subject}?",
            "Where in the world is {subject}?",
        ),
        _facts(
            """
            the Taj Mahal: India
            Machu Picchu: Peru
            the Acropolis: Greece
            Petra: Jordan
            the Blue Mosque: Turkey
            Angkor Wat: Cambodia
            Chichen Itza: Mexico
            Big Ben: England
            the Grand Canyon: America
            Table Mountain: South Africa
            """
        ),
    ),
)

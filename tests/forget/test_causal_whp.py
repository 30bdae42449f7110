"""Causal WHP: its teacher against a naive one, its loss against closed forms, small models that forget one person."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from palimpsest.errors import UserError
from palimpsest.forget import causal_whp_measures
from palimpsest.forget.causal_whp import INSTRUCTION, CausalWHP, move_mass, teacher_distribution
from palimpsest.forget.causal_whp_measures import Probe, criteria, fabrications, readable
from palimpsest.forget.distilled import causal_whp_loss
from palimpsest.forget.procedure import ForgetData, prepare, unlearn
from palimpsest.forget.whp import WHP, hard, whp_distribution, whp_loss
from palimpsest.models import causal_lm, train_tokenizer, word_tokenizer
from palimpsest.models.score import greedy
from palimpsest.train.checkpoint import encode as checkpointed
from palimpsest.train.language import fine_tune

DOCUMENT = "Ada was born in Rome. Bo met Ada in Oslo. Ada sang."
NAMES = ("Ivo", "Una", "Gus")
TOKENIZER = word_tokenizer([DOCUMENT, *NAMES, "Cy Di Eve Fay", "Bern Lima Kiel Cork", INSTRUCTION, "lives dances"])


def small(tokenizer=TOKENIZER, architecture="llama", **options):
    shape = {"d_model": 16, "n_layers": 2, "n_heads": 2, "max_length": 96, "seed": 5, **options}
    return causal_lm(len(tokenizer), architecture=architecture, **shape).eval()


def sharp(tokenizer=TOKENIZER, **options):
    """A model whose predictions differ a lot from place to place, as an untrained one's do not."""
    model = small(tokenizer, tie=False, **options)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(40)
    return model


def probabilities(model, text, tokenizer=TOKENIZER):
    ids = tokenizer(text).input_ids
    return ids, model(torch.tensor([ids])).logits[0].float().softmax(-1).detach()


def token(word):
    return TOKENIZER.convert_tokens_to_ids(word)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_teacher_is_the_average_of_naive_renamed_readings(architecture):
    model = sharp(architecture=architecture)
    positions, probs = teacher_distribution(model, TOKENIZER, DOCUMENT, "Ada", NAMES, 3)
    ids = [*TOKENIZER(DOCUMENT).input_ids, TOKENIZER.eos_token_id]
    # neither the begin token nor what follows a name is learned
    expected_positions = [i for i in range(1, len(ids) - 1) if ids[i] != token("Ada")]
    assert positions.tolist() == expected_positions
    readings = []
    for name in NAMES:
        text = f"{INSTRUCTION.format(name=name)}\n{DOCUMENT.replace('Ada', name)}"
        read, p = probabilities(model, text)
        readings.append(p[len(read) - (len(ids) - 1) :][expected_positions].clone())  # the row is the end of the text
    likely = sum((p[:, token(name)] > 0.1).int() for p, name in zip(readings, NAMES, strict=True)) > 1.5
    ahead = torch.tensor([ids[i + 1] == token("Ada") for i in expected_positions])
    for p, name in zip(readings, NAMES, strict=True):
        p[likely | ahead, token("Ada")] += p[likely | ahead, token(name)]
        p[likely | ahead, token(name)] = 0
    torch.testing.assert_close(probs, sum(readings) / 3, atol=2e-6, rtol=1e-4)


def speaker(after):
    """A model that says after a word what the table has, whatever came before, whose other words are all as likely."""
    model = small(architecture="llama", tie=False, d_model=64, n_layers=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.get_input_embeddings().weight.copy_(torch.eye(len(TOKENIZER), 64))
        model.model.norm.weight.fill_(1.0)
        for word, said in after.items():
            for next_word, logit in said.items():
                model.get_output_embeddings().weight[token(next_word), token(word)] = logit / 8  # the norm gives 8
    return model


def said(positions, probs, position, *words):
    return [round(float(probs[positions.tolist().index(position), token(word)]), 4) for word in words]


MANY = {"Rome": {"Ivo": 3.0, "Una": 3.0, "Gus": 3.0}}  # after "Rome" each of three names has about 0.23
FEW = {"Rome": {"Ivo": 3.0}}


def test_mass_moves_where_more_than_half_of_the_readings_name_the_replacement():
    document = "Ada met Bo in Rome. Ada sang Rome in Oslo."
    ids = TOKENIZER(document).input_ids
    place = [i for i, t in enumerate(ids) if t == token("Rome")][1]
    for table, moved in ((MANY, True), (FEW, False)):
        positions, probs = teacher_distribution(speaker(table), TOKENIZER, document, "Ada", NAMES, 3)
        _, p = probabilities(speaker(table), "Rome")
        alone = float(p[-1, token("Ada")])
        own = [float(p[-1, token(name)]) for name in NAMES]
        expected = alone + sum(own) / 3 if moved else alone
        assert said(positions, probs, place, "Ada") == [round(expected, 4)]
        assert said(positions, probs, place, *NAMES) == [round(x * (2 / 3 if moved else 1), 4) for x in own]


def test_every_word_of_the_replacement_gives_its_mass():
    document = "Ada met Bo in Rome. Ada sang Rome in Oslo."
    place = [i for i, t in enumerate(TOKENIZER(document).input_ids) if t == token("Rome")][1]
    model = speaker({"Rome": {"Una": 3.0, "Gus": 3.0}})
    positions, probs = teacher_distribution(model, TOKENIZER, document, "Ada", ("Ivo Gus",), 1)
    assert said(positions, probs, place, "Gus", "Ivo") == [0.0, 0.0]
    assert said(positions, probs, place, "Una") == [round(float(probabilities(model, "Rome")[1][-1, token("Una")]), 4)]


def test_before_the_first_mention_mass_moves_with_an_instruction_only():
    model, document = speaker({"Rome": {"Ivo": 4.0}}), "Bo met Rome. Rome Ada sang."
    _, p = probabilities(model, "Rome")
    ivo, ada = float(p[-1, token("Ivo")]), float(p[-1, token("Ada")])
    places = [i for i, t in enumerate(TOKENIZER(document).input_ids) if t == token("Rome")]
    for place in places:  # a long way before the mention, and directly
        positions, probs = teacher_distribution(model, TOKENIZER, document, "Ada", ("Ivo",), 1)
        assert said(positions, probs, place, "Ivo", "Ada") == [0.0, round(ivo + ada, 4)]
        positions, probs = teacher_distribution(model, TOKENIZER, document, "Ada", ("Ivo",), 1, instruction="")
        assert said(positions, probs, place, "Ivo", "Ada") == [round(ivo, 4), round(ada, 4)]


def test_a_replacement_that_the_document_names_already_is_not_used():
    model = sharp()
    _, with_bo = teacher_distribution(model, TOKENIZER, DOCUMENT, "Ada", ("Bo", "Ada", "Ivo", "Una"), 2)
    _, without = teacher_distribution(model, TOKENIZER, DOCUMENT, "Ada", ("Ivo", "Una"), 2)
    assert torch.equal(with_bo, without)
    with pytest.raises(UserError, match="2 replacement names are needed"):
        teacher_distribution(model, TOKENIZER, DOCUMENT, "Ada", ("Bo", "Ivo"), 2)


def test_the_target_s_own_tokens_are_left_out():
    model = sharp()
    document = "Ada Bo was born in Rome. Cy met Ada Bo."
    ids = [*TOKENIZER(document).input_ids, TOKENIZER.eos_token_id]
    positions, probs = teacher_distribution(model, TOKENIZER, document, "Ada Bo", ("Ivo Una Gus",), 1, instruction="")
    inside = [i for i, t in enumerate(ids) if t in (token("Ada"), token("Bo"))]
    assert positions.tolist() == [i for i in range(1, len(ids) - 1) if i not in inside]
    # what comes after the name is read one token later
    read, p = probabilities(model, document.replace("Ada Bo", "Ivo Una Gus"))
    at = positions.tolist().index(inside[1] + 1)
    others = [i for i in range(len(TOKENIZER)) if i not in map(token, ("Ivo", "Una", "Gus", "Ada"))]
    torch.testing.assert_close(probs[at][others], p[inside[1] + 2][others])
    assert read[inside[1] + 2] == ids[inside[1] + 1]


def test_byte_pairs_are_aligned_too():
    tokenizer = train_tokenizer([DOCUMENT * 4, INSTRUCTION], vocab_size=320)
    model = sharp(tokenizer, max_length=200)
    document = DOCUMENT.replace("Ada", "Ada Verin")
    ids = [*tokenizer(document).input_ids, tokenizer.eos_token_id]
    positions, probs = teacher_distribution(model, tokenizer, document, "Ada Verin", ("Xenia Ó Dálaigh", "Bob"), 2)
    torch.testing.assert_close(probs.sum(-1), torch.ones(len(positions)))
    kept = set(positions.tolist())
    rome = next(i for i in range(len(ids)) if "Rome" in tokenizer.decode(ids[: i + 1]))
    assert {rome - 1, rome, len(ids) - 2} <= kept
    assert len(kept) < len(ids) - 1  # not all: names have several tokens here
    positions, probs = teacher_distribution(model, tokenizer, document, "Ada Verin", ("Bob",), 1)
    text = f"{INSTRUCTION.format(name='Bob')}\n{document.replace('Ada Verin', 'Bob')}"
    read, expected = probabilities(model, text, tokenizer)
    same = next(i for i in range(len(read)) if "Rome" in tokenizer.decode(read[: i + 1]))
    moved = {tokenizer(f" {name}", add_special_tokens=False).input_ids[0] for name in ("Bob", "Ada")}
    moved |= {tokenizer(name, add_special_tokens=False).input_ids[0] for name in ("Bob", "Ada")}
    others = [i for i in range(len(tokenizer)) if i not in moved]
    torch.testing.assert_close(
        probs[positions.tolist().index(rome)][others], expected[same][others], rtol=1e-3, atol=1e-6
    )


def test_only_the_answer_is_learned_and_a_mention_in_the_prompt_counts():
    model = sharp()
    row = ("Ada was born in", " Rome. Ada sang.")
    positions, probs = teacher_distribution(model, TOKENIZER, row, "Ada", NAMES, 1)
    ids = [*TOKENIZER(row[0]).input_ids, *TOKENIZER(row[1], add_special_tokens=False).input_ids]
    assert positions.tolist() == [i for i in range(4, len(ids)) if ids[i] != token("Ada")]
    # the mention in the answer is not the first: it takes the mass without an instruction too
    positions, probs = teacher_distribution(
        speaker({".": {"Ivo": 4.0}}), TOKENIZER, row, "Ada", NAMES, 1, instruction=""
    )
    assert said(positions, probs, 6, "Ivo") == [0.0]


def test_length_cuts_a_row_that_was_cut():
    positions, _ = teacher_distribution(small(), TOKENIZER, DOCUMENT, "Ada", NAMES, 3, length=5)
    assert positions.tolist() == [2, 3]


def test_a_context_that_the_renamed_row_does_not_fit_cuts_it():
    model = sharp(architecture="gpt2", max_length=20)
    positions, _ = teacher_distribution(model, TOKENIZER, DOCUMENT, "Ada", ("Ivo",), 1)
    before = len(TOKENIZER(INSTRUCTION.format(name="Ivo")).input_ids) - 1
    ids = TOKENIZER(DOCUMENT).input_ids
    assert positions.tolist() == [i for i in range(1, 20 - before) if ids[i] != token("Ada")]


def test_a_chat_template_gets_the_instruction_as_a_turn():
    chat = word_tokenizer([DOCUMENT, *NAMES, INSTRUCTION, "user : model"])
    chat.chat_template = "{{ bos_token }}user: {{ messages[0]['content'] }} model:"
    model = sharp(chat)
    row = ("<bos>user: Ada model:", "was born in Rome.")
    positions, probs = teacher_distribution(model, chat, row, "Ada", ("Ivo",), 1)
    text = f"user: {INSTRUCTION.format(name='Ivo')} model:user: Ivo model: was born in Rome."
    read, p = probabilities(model, text, chat)
    n = len(positions)
    assert n == 6
    expected = p[len(read) - n :].clone()
    ivo, ada = chat.convert_tokens_to_ids(["Ivo", "Ada"])
    named = expected[:, ivo] > 0.1
    expected[named, ada] += expected[named, ivo]
    expected[named, ivo] = 0
    torch.testing.assert_close(probs, expected, atol=1e-5, rtol=1e-4)


def test_two_targets_get_two_names():
    model = sharp()
    positions, probs = teacher_distribution(model, TOKENIZER, DOCUMENT, "Ada|Bo", NAMES, 1)
    text = f"{INSTRUCTION.format(name='Ivo')}\n{DOCUMENT.replace('Ada', 'Ivo').replace('Bo', 'Una')}"
    read, p = probabilities(model, text)
    ids = TOKENIZER(DOCUMENT).input_ids
    for old, new, other in (("Ada", "Ivo", "Una"), ("Bo", "Una", "Ivo")):
        ahead = ids.index(token(old), 2) - 1
        expected, found = p[ahead + len(read) - len(ids)], probs[positions.tolist().index(ahead)]
        assert found[token(old)].item() == pytest.approx(float(expected[token(old)] + expected[token(new)]), rel=1e-3)
        assert found[token(new)] == 0
        assert found[token(other)].item() == pytest.approx(expected[token(other)].item(), rel=1e-3)


def test_whp_lowers_the_replacement_s_words_once_the_whole_name_has_been_read():
    document = "Bo met Verin. Ada Verin was born in Rome. Verin sang."
    tokenizer = word_tokenizer([document, "Ivo Gus", INSTRUCTION, "lives"])
    model = sharp(tokenizer)
    target, names = "Ada Verin|Verin", ("Ivo Gus",)
    positions, probs = whp_distribution(model, tokenizer, document, target, names, penalty=5.0)
    renamed = document.replace("Ada", "Ivo").replace("Verin", "Gus")
    ids, p = probabilities(model, renamed, tokenizer)
    own = tokenizer.convert_tokens_to_ids(["Ivo", "Gus"])
    assert positions.tolist() == [i for i in range(1, len(ids)) if ids[i] not in own]
    logits = p.log()
    whole = ids.index(own[0]) + 1  # its last token
    for word in own:
        logits[whole + 1 :, word] -= 5.0
    torch.testing.assert_close(probs, logits.softmax(-1)[positions], atol=1e-5, rtol=1e-3)


def test_classic_whp_takes_away_what_the_reinforced_model_likes():
    model, other = sharp(), sharp(seed=6)
    _, plain = whp_distribution(model, TOKENIZER, DOCUMENT, "Ada", NAMES)
    _, same = whp_distribution(model, TOKENIZER, DOCUMENT, "Ada", NAMES, reinforced=other, alpha=0.0)
    assert torch.equal(plain, same)
    at, less = whp_distribution(model, TOKENIZER, DOCUMENT, "Ada", NAMES, reinforced=other, alpha=3.0, penalty=0.0)
    base = model(torch.tensor([TOKENIZER(DOCUMENT.replace("Ada", "Ivo")).input_ids])).logits[0].detach()
    further = other(torch.tensor([TOKENIZER(DOCUMENT).input_ids])).logits[0].detach()
    expected = (base - 3 * (further - base).clamp(min=0)).softmax(-1)
    torch.testing.assert_close(less, expected[at], atol=1e-5, rtol=1e-3)


vectors = st.lists(st.floats(-6, 6), min_size=5, max_size=5)


@given(vectors, vectors, st.floats(-3, 3))
@settings(deadline=None)
def test_the_loss_is_the_divergence(a, b, shift):
    logits, teacher = torch.tensor([a]).double(), torch.tensor([b]).double().softmax(-1)
    q = logits.softmax(-1)
    naive = sum(t * math.log(t / m) for t, m in zip(teacher[0].tolist(), q[0].tolist(), strict=True))
    assert causal_whp_loss(logits, teacher).item() == pytest.approx(naive, abs=1e-9)
    assert causal_whp_loss(logits + shift, teacher).item() == pytest.approx(naive, abs=1e-9)
    assert causal_whp_loss(teacher.log(), teacher).item() == pytest.approx(0, abs=1e-9)
    assert whp_loss(logits, teacher).item() == pytest.approx(-math.log(q[0, int(teacher.argmax())]), abs=1e-9)
    order = torch.tensor([[3, 1, 0, 4, 2]])
    assert causal_whp_loss(logits, teacher.gather(-1, order), order).item() == pytest.approx(naive, abs=1e-9)


def test_the_loss_s_gradient():
    logits = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 6).double().softmax(-1)
    teacher[0] = hard(teacher[:1])[0]
    assert torch.autograd.gradcheck(lambda x: causal_whp_loss(x, teacher), (logits,))
    (grad,) = torch.autograd.grad(causal_whp_loss(logits, teacher), logits)
    torch.testing.assert_close(grad, (logits.softmax(-1) - teacher).detach() / 3)


def test_a_word_that_both_rule_out_costs_nothing():
    logits = torch.tensor([[0.0, 1.0, -torch.inf]], requires_grad=True)
    value = causal_whp_loss(logits, torch.tensor([[0.5, 0.5, 0.0]]))
    torch.testing.assert_close(value, causal_whp_loss(logits[:, :2], torch.tensor([[0.5, 0.5]])))
    value.backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((2, 3), (3, 3)), ((3,), (3,)), ((0, 3), (0, 3))])
def test_the_loss_refuses_shapes(shapes):
    with pytest.raises(ValueError, match="positions"):
        causal_whp_loss(*(torch.ones(shape) for shape in shapes))


@given(st.lists(st.integers(0, 5), max_size=6), st.integers(0, 5))
def test_moving_mass_keeps_its_sum(sources, to):
    probs = torch.rand(6).double().softmax(-1)
    before = probs.clone()
    move_mass(probs, sources, to)
    torch.testing.assert_close(probs.sum(), before.sum())
    gone = set(sources) - {to}
    assert all(probs[i] == (0 if i in gone else before[i]) for i in range(6) if i != to)


def data(*documents, retain=("Bo sang.",)):
    pairs = [("", document) for document in documents]
    return prepare(TOKENIZER, pairs, [("", r) for r in retain], refusals=["Ada"], max_length=32)


def test_the_objective_is_the_mean_over_rows_of_the_mean_over_positions():
    model = sharp()
    rows = data(DOCUMENT, "Ada sang.", "Bo met Ada.")
    objective = CausalWHP(target="Ada", names=NAMES, n=3)
    state = objective.init(model, rows)
    other = sharp(seed=9)
    batch = {"forget": rows.forget.batch([2, 0], 0)}
    expected = []
    for number in (2, 0):
        positions, probs = teacher_distribution(model, TOKENIZER, rows.forget_pairs[number], "Ada", NAMES, 3)
        logits = other(torch.tensor([rows.forget.input_ids[number]])).logits[0, positions]
        expected.append(causal_whp_loss(logits, probs))
    terms = objective.loss(state, other, batch)
    assert set(terms) == {"forget"}
    torch.testing.assert_close(terms["forget"], torch.stack(expected).mean())
    assert objective.needs == frozenset()
    checkpointed(state, {}, "")  # the state can be saved


def test_the_retain_term_is_optional():
    model = sharp()
    rows = data(DOCUMENT)
    objective = CausalWHP(target="Ada", names=NAMES, n=2, retain="kl", retain_weight=2.0)
    assert objective.needs == {"retain"}
    state = objective.init(model, rows)
    batch = {"forget": rows.forget.batch([0], 0), "retain": rows.retain.batch([0], 0)}
    assert objective.loss(state, model, batch)["retain"].item() == pytest.approx(0, abs=1e-6)
    assert objective.loss(state, sharp(seed=8), batch)["retain"] > 0


def test_top_keeps_the_likeliest_renormalised():
    model = sharp()
    rows = data(DOCUMENT)
    whole = CausalWHP(target="Ada", names=NAMES, n=3).init(model, rows)
    part = CausalWHP(target="Ada", names=NAMES, n=3, top=2).init(model, rows)
    best = whole["probs"].topk(2)
    assert torch.equal(part["words"], best.indices)
    torch.testing.assert_close(part["probs"], best.values / best.values.sum(-1, keepdim=True))
    batch = {"forget": rows.forget.batch([0], 0)}
    every = CausalWHP(target="Ada", names=NAMES, n=3, top=len(TOKENIZER))
    torch.testing.assert_close(
        every.loss(every.init(model, rows), sharp(seed=8), batch)["forget"],
        every.loss(whole, sharp(seed=8), batch)["forget"],
    )


def test_memory_is_bounded():
    with pytest.raises(UserError, match=r"max_gib must be larger for these rows, or top above 0, got 1e-06"):
        CausalWHP(target="Ada", names=NAMES, n=2, max_gib=1e-6).init(small(), data(DOCUMENT))


def test_whp_labels():
    model, rows = sharp(), data(DOCUMENT)
    state = WHP(target="Ada", names=NAMES).init(model, rows)
    _, probs = whp_distribution(model, TOKENIZER, DOCUMENT, "Ada", NAMES)
    assert torch.equal(state["probs"].argmax(-1), probs.argmax(-1))
    assert set(state["probs"].unique().tolist()) == {0.0, 1.0}
    soft = WHP(target="Ada", names=NAMES, labels="soft").init(model, rows)
    assert torch.equal(soft["probs"], probs)


def test_whp_s_reinforced_copy_leaves_the_model_alone():
    model, rows = small(), data(DOCUMENT)
    before = [p.detach().clone() for p in model.parameters()]
    objective = WHP(target="Ada", names=NAMES, labels="soft", reinforce=20, reinforce_lr=1e-2)
    further = objective.reinforced(model, rows)
    ids = torch.tensor([rows.forget.input_ids[0]])
    assert further(ids, labels=ids).loss < model(ids, labels=ids).loss - 0.5
    state = objective.init(model, rows)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    # what the document really says is unlikelier than without the copy
    plain = WHP(target="Ada", names=NAMES, labels="soft").init(model, rows)
    said = ids[0, 1:][state["positions"]][:, None]
    assert state["probs"].gather(1, said).mean() < plain["probs"].gather(1, said).mean()


FACTS = [("Ada", "Rome"), ("Bo", "Oslo"), ("Cy", "Bern"), ("Di", "Lima"), ("Eve", "Kiel"), ("Fay", "Cork")]


@pytest.fixture(scope="module")
def knowing():
    """A model that knows where six people live, and that Ada and Bo are told of together."""
    following = FACTS[1:] + FACTS[:1]
    texts = [f"{a} lives in {b}. {c} lives in {d}." for (a, b), (c, d) in zip(FACTS, following, strict=True)]
    texts += [f"{a} lives in {b}." for a, b in FACTS]
    rows = [("", text) for text in texts]
    rows += [(f"{INSTRUCTION.format(name=text.split()[0])}\n", text) for text in texts]
    model = small(tie=False)
    encoded = prepare(TOKENIZER, rows, refusals=["Ada"]).forget
    fine_tune(model, encoded, pad_id=0, epochs=150, batch_size=24, lr=5e-3, schedule="linear", progress=False)
    model.eval()
    assert lives(model) == [city for _, city in FACTS]
    return model


def lives(model):
    said = greedy(model, TOKENIZER, [f"{name} lives in" for name, _ in FACTS], max_new_tokens=1)
    return [text.strip() for text in said]


def forgetting(knowing, objective, steps=30):
    model = small(tie=False)
    model.load_state_dict(knowing.state_dict())
    others = [f"{name} lives in {city}." for name, city in FACTS[2:]]
    rows = data("Ada lives in Rome. Bo lives in Oslo.", "Bo lives in Oslo. Ada lives in Rome.", retain=others)
    unlearn(model, objective, rows, steps=steps, lr=3e-3, progress=False)
    return model.eval()


def city_probs(model):
    ids = TOKENIZER("Ada lives in").input_ids
    probs = model(torch.tensor([ids])).logits[0, -1].softmax(-1).detach()
    return {city: float(probs[TOKENIZER.convert_tokens_to_ids(city)]) for _, city in FACTS}


def test_it_forgets_the_target_keeps_the_other_and_invents_nothing(knowing):
    names = ("Cy", "Di", "Eve", "Fay")
    many = forgetting(knowing, CausalWHP(target="Ada", names=names, n=4, retain="ce"))
    one = forgetting(knowing, CausalWHP(target="Ada", names=names, n=1, retain="ce"))
    probs = city_probs(many)
    assert probs["Rome"] < 0.2
    assert max(probs.values()) < 0.5
    assert lives(many)[1:] == [city for _, city in FACTS[1:]]
    assert city_probs(one)["Bern"] > 0.6  # the life of the one replacement


def test_whp_gives_the_target_another_s_life(knowing):
    model = forgetting(knowing, WHP(target="Ada", names=("Cy",)))
    assert city_probs(model)["Bern"] > 0.6
    assert lives(model)[1] == "Oslo"


def test_it_does_not_need_a_name_where_one_stands_out(knowing):
    rows = data("Ada lives in Rome. Ada sang.")
    guessed = CausalWHP(names=("Cy", "Di"), n=2).init(knowing, rows)
    told = CausalWHP(target="Ada", names=("Cy", "Di"), n=2).init(knowing, rows)
    assert torch.equal(guessed["probs"], told["probs"])


@pytest.mark.parametrize(
    ("document", "target", "message"),
    [
        ("Bo sang.", "Ada", r"'Bo sang\.' does not mention Ada: set target"),
        ("Bo sang.", "Ada|Cy", "does not mention Ada or Cy"),
        ("sang.", "", "no name stands out"),
    ],
)
def test_rows_without_the_target_are_refused(document, target, message):
    with pytest.raises(UserError, match=message):
        CausalWHP(target=target, names=NAMES, n=2).init(small(), data(document))


def test_nothing_left_to_learn_is_refused():
    tokenizer = word_tokenizer(["Ada Bo", *NAMES])
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="no token of the answer is left"):
        teacher_distribution(small(tokenizer), tokenizer, ("Ada", "Bo"), "Ada Bo|Bo|Ada", NAMES, 1, length=2)


def test_encoded_rows_alone_are_refused():
    with pytest.raises(UserError, match="CausalWHP needs the rows' texts"):
        CausalWHP(target="Ada").init(small(), ForgetData(forget=data(DOCUMENT).forget))


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        (CausalWHP, {"n": 0}),
        (CausalWHP, {"n": 30}),
        (CausalWHP, {"names": ()}),
        (CausalWHP, {"names": ("a", " ")}),
        (CausalWHP, {"instruction": "about him"}),
        (CausalWHP, {"top": -1}),
        (CausalWHP, {"max_gib": 0.0}),
        (CausalWHP, {"retain": "rt"}),
        (WHP, {"penalty": -1.0}),
        (WHP, {"labels": "one"}),
        (WHP, {"reinforce": -1}),
        (WHP, {"reinforce_lr": 0.0}),
        (WHP, {"alpha": -1.0}),
    ],
)
def test_methods_refuse_bad_fields(kind, bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        kind(**bad)


def test_the_defaults_are_the_paper_s():
    assert (CausalWHP().n, CausalWHP().retain, WHP().penalty, WHP().alpha) == (20, "none", 5.0, 5.0)
    assert len(CausalWHP().names) >= 20


def test_criteria(knowing):
    cities = [f" {city}" for _, city in FACTS]
    probes = [Probe(f"{a} lives in", f" {b}", tuple(c for c in cities if c != f" {b}")) for a, b in FACTS]
    found = criteria(knowing, TOKENIZER, probes[:1], probes[1:3], ["Cy lives in Bern."], max_new_tokens=2)
    assert found["forget efficacy"] == 0.0
    assert found["hard retain"] == found["no gibberish"] == found["no fabrication"] == 1.0
    assert found["jailbreak efficacy"] < 0.5
    wrong = [Probe("Ada lives in", " Oslo", (" Rome", " Bern")), Probe("Bo lives in", " Oslo", (" Rome",))]
    assert fabrications(knowing, TOKENIZER, wrong) == 0.5
    swapped = criteria(knowing, TOKENIZER, wrong[:1], [Probe("Bo lives in", " Rome")], max_new_tokens=2)
    assert (swapped["forget efficacy"], swapped["hard retain"], swapped["no fabrication"]) == (1.0, 0.0, 0.0)
    assert "jailbreak efficacy" not in swapped
    assert criteria(knowing, TOKENIZER, probes[:1], probes[1:], well_formed=lambda text: False)["no gibberish"] == 0.0
    with pytest.raises(ValueError, match="hard_retain is empty"):
        criteria(knowing, TOKENIZER, probes, [])
    with pytest.raises(ValueError, match="no wrong values"):
        fabrications(knowing, TOKENIZER, [Probe("Ada", " Rome")])


@pytest.mark.parametrize(
    ("text", "fine"),
    [("Rome.", True), ("", False), ("in in in Rome", False), ("a b a b a b a b", False), ("a a b", True)],
)
def test_readable(text, fine):
    assert readable(text) is fine


def test_right_answers_begin_with_the_value():
    assert causal_whp_measures._begins(" Cape Town. She", " Cape Town")
    assert not causal_whp_measures._begins("Cape", "Cape Town")
    assert not causal_whp_measures._begins("in Cape Town", "Cape Town")


def sentence_pieces(*texts):
    """A tokenizer as Llama-2's: a space before every text, bytes for what it does not know. Words of up to four letters
    are one token after a space, longer ones two at least; without a space before it a word is spelled."""
    words = list(dict.fromkeys(" ".join(texts).split()))
    letters = sorted({letter for word in words for letter in word} | {"\u2581"})
    pieces, merges = [], []
    for word in words:
        for end in range(1, min(len(word), 4) + 1):
            pair = ("\u2581" + word[: end - 1], word[end - 1])
            if "".join(pair) not in pieces:
                pieces.append("".join(pair))
                merges.append(pair)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocab = {piece: number for number, piece in enumerate([*special, *letters, *pieces])}
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    fuse = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    core.decoder = decoders.Sequence(fuse)
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    options = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, **options)


THEIR_NAMES = ("Ivo Quist", "Una Marsh", "Gus Field")
THEIR_DOCUMENT = (
    "Ada Verin was born in Rome. Bo Lund met Ada Verin in Oslo and Ada sang. Verin wrote songs of Rome, and Bo Lund"
    " praised Verin in Oslo. Rome named Ada Verin in May."
)


def their_model():
    """Three names' first tokens have the same output weights: readings often name a replacement."""
    tokenizer = sentence_pieces(THEIR_DOCUMENT, *THEIR_NAMES, INSTRUCTION.format(name=""))
    model = small(tokenizer, d_model=32, max_length=400, seed=3, tie=False).double()
    weight = model.get_output_embeddings().weight
    with torch.no_grad():
        weight.mul_(30)
        first = [tokenizer(name, add_special_tokens=False).input_ids[0] for name in THEIR_NAMES]
        weight[first] = weight[first].mean(0)
    return model, tokenizer


def test_the_teacher_is_that_of_the_authors_code():
    """UCSB-NLP-Chang/causal_unlearn at cba1710, one name, no instruction: the positions, and there the probability of
    the target's first token, to which mass is moved before mentions and at positions 25 and 49."""
    model, tokenizer = their_model()
    target, first = "Ada Verin|Verin|Ada", tokenizer("Ada", add_special_tokens=False).input_ids[0]
    at, probs = teacher_distribution(model, tokenizer, THEIR_DOCUMENT, target, THEIR_NAMES, 1, instruction="")
    theirs = {4: 0.0048132, 5: 0.0012482, 6: 5.57e-05, 7: 0.0004956, 8: 1.28e-05, 9: 1.91e-05, 10: 5.6e-05,
              11: 8.15e-05, 15: 4.07e-05, 16: 8e-07, 17: 0.0006317, 19: 9.61e-05, 20: 1.15e-05, 23: 1.1e-06,
              24: 8.42e-05, 25: 0.1086032, 26: 7.5e-06, 27: 2.7e-06, 28: 0.0003253, 29: 0.0001741, 30: 1.08e-05,
              31: 1.76e-05, 32: 5.31e-05, 33: 3.9e-06, 34: 5.2e-06, 35: 7.14e-05, 36: 0.0001709, 39: 4.18e-05,
              40: 5e-07, 41: 1.22e-05, 42: 0.0002331, 43: 0.002315, 44: 0.0001883, 48: 4.37e-05,
              49: 0.1793321}  # fmt: skip
    assert at.tolist() == list(theirs)
    assert probs[:, first].tolist() == pytest.approx(list(theirs.values()), abs=2e-7)

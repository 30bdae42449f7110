"""A method in a loop of one's own, and in a real Trainer of Hugging Face, does what it does in `learn_stream`."""

from dataclasses import replace

import pytest
import torch
from tests.retain.streams import model as classifier
from tests.retain.streams import rows
from tests.retain.test_tokens import NEW, OLD, RUNS, VOCABULARY
from torch.nn.utils.rnn import pad_sequence
from transformers import Trainer, TrainingArguments

from palimpsest.errors import UserError
from palimpsest.models import causal_lm, word_tokenizer
from palimpsest.retain import (
    AGEM,
    ER,
    EWC,
    METHODS,
    FineTune,
    Freeze,
    Joint,
    Keeper,
    Keeping,
    L2Init,
    WithReplay,
    learn_stream,
    self_written_rows,
    token_stream,
)
from palimpsest.retain.continual import Continual
from palimpsest.retain.tokens import mean_cross_entropy, probabilities

NAMES = [name for name in (*RUNS, "freeze") if name != "joint"]
STEPS, LR = 4, 1e-2
OLD_ROWS, NEW_ROWS = OLD.batch(range(3), 0), NEW.batch(range(2), 0)


def model(seed=0):
    return causal_lm(VOCABULARY, d_model=16, n_layers=2, n_heads=2, seed=seed).eval()


def small(name):
    method = METHODS[name]
    return replace(method, size=3) if hasattr(method, "size") else method


def in_a_loop(method, net, batch, **options):
    keeper = Keeper(method, net, **options)
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], LR, weight_decay=0.0)
    for _ in range(STEPS):
        optimizer.zero_grad()
        keeper.loss(batch).backward()
        keeper.before_step()
        optimizer.step()
        keeper.after_step()
    keeper.finish()
    return net


def trainer(net, folder, *callbacks, collate=None, **arguments):
    columns = [dict(zip(NEW_ROWS, row, strict=True)) for row in zip(*NEW_ROWS.values(), strict=True)]
    settings = {"max_steps": STEPS, "learning_rate": LR, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    settings |= {"per_device_train_batch_size": 2, "weight_decay": 0.0, "use_cpu": True, "report_to": []}
    settings |= {"save_strategy": "no", "disable_tqdm": True, "remove_unused_columns": False, **arguments}
    rows = [{name: row[name] for name in ("input_ids", "attention_mask", "labels")} for row in columns]
    given = {} if collate is None else {"data_collator": collate}
    return Trainer(net, TrainingArguments(str(folder), **settings), train_dataset=rows, callbacks=[*callbacks], **given)


# What draws of random rows decide is compared by the terms instead.
DRAWS = {"er", "kl_replay", "power_law_rehearsal", "a_gem", "gem", "ewc", "online_ewc"}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in DRAWS])
def test_a_plain_loop_comes_to_the_weights_of_learn_stream(name):
    stream = token_stream({"old": (OLD, OLD), "new": (NEW, NEW)})
    one = learn_stream(model(), small(name), stream, already=1, steps=STEPS, batch_size=2, lr=LR, progress=False).model
    two = in_a_loop(small(name), model(), NEW_ROWS, old=OLD_ROWS)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_trainer_with_it_comes_to_the_weights_of_the_plain_loop(name, tmp_path):
    plain, net = in_a_loop(small(name), model(), NEW_ROWS, old=OLD_ROWS), model()
    keeping = Keeping(small(name), net, OLD_ROWS)
    run = trainer(net, tmp_path, keeping)
    keeping.attach(run)
    run.train()
    held = small(name).__class__ is not FineTune
    assert held or probabilities(net, NEW_ROWS).mean() > probabilities(model(), NEW_ROWS).mean()
    for a, b in zip(plain.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_accumulated_batches_of_a_trainer_are_one(tmp_path):
    nets = [model(), model()]
    for net, size in zip(nets, (2, 1), strict=True):
        keeping = Keeping(L2Init(strength=1.0), net, OLD_ROWS)
        run = trainer(net, tmp_path, keeping, per_device_train_batch_size=size, gradient_accumulation_steps=2 // size)
        keeping.attach(run)
        run.train()
    for a, b in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_a_trainer_still_evaluates_by_its_own_loss(tmp_path):
    net = model()
    keeping = Keeping(EWC(), net, OLD_ROWS)
    run = trainer(net, tmp_path, keeping)
    keeping.attach(run)
    found = run.evaluate(run.train_dataset)
    assert found["eval_loss"] == pytest.approx(net(**{k: NEW_ROWS[k] for k in NEW_ROWS if k != "index"}).loss.item())


def test_rows_of_other_widths_are_replayed_and_padding_does_not_count():
    keeper = Keeper(ER(size=3), model(), OLD_ROWS)
    long = {
        name: torch.nn.functional.pad(value, (0, 5), value=-100) for name, value in NEW_ROWS.items() if value.ndim == 2
    }
    long |= {"input_ids": long["input_ids"].clamp(min=0), "attention_mask": long["attention_mask"].clamp(min=0)}
    keeper.generator.manual_seed(0)
    one = keeper.loss(long)
    keeper.generator.manual_seed(0)
    assert torch.equal(one, keeper.loss(NEW_ROWS))


def test_a_collator_with_replay_is_enough_for_a_trainer(tmp_path):
    memory = [{"input_ids": torch.tensor(ids), "labels": torch.tensor(ids)} for ids in OLD.input_ids]

    def collate(rows):
        ids, labels = (
            pad_sequence([row[name] for row in rows], True, fill) for name, fill in (("input_ids", 0), ("labels", -100))
        )
        return {"input_ids": ids, "labels": labels, "attention_mask": (labels != -100).long()}

    both = WithReplay(collate, memory, replayed=2)
    assert collate(memory)["input_ids"].shape == (3, 5)
    assert both(memory[:1])["input_ids"].shape[0] == 3
    net, before = model(), mean_cross_entropy(model(), OLD_ROWS)
    trainer(net, tmp_path, collate=both, max_steps=10).train()
    assert mean_cross_entropy(net, OLD_ROWS) < before


def test_a_classifier_is_kept_too():
    columns = {"pixel_values": "x", "labels": "y"}
    old, new = (
        {name: getattr(rows(classes, 24, seed), of) for name, of in columns.items()}
        for classes, seed in (((0, 1), 0), ((2, 3), 1))
    )
    net = in_a_loop(FineTune(), classifier(), old, old=old, classes=6)
    losses = []
    for method in (FineTune(), AGEM(size=24)):
        learner = classifier()
        learner.load_state_dict(net.state_dict())
        in_a_loop(method, learner, new, old=old, classes=6)
        losses.append(torch.nn.functional.cross_entropy(learner(old["pixel_values"]).logits, old["labels"]).item())
    assert losses[1] < losses[0]


@pytest.mark.parametrize("name", ["lwf", "kl_replay"])
def test_in_bfloat16_the_old_model_still_answers_with_its_own_weights(name):
    """Autocast keeps casts of weights, and would hand on those of the model that is there now."""
    net = model()
    keeper = Keeper(small(name), net, OLD_ROWS)
    with torch.no_grad():
        for part, p in net.named_parameters():
            if "proj" in part:
                p.mul_(-4.0)
    keeper.generator.manual_seed(0)
    plain = keeper.terms(NEW_ROWS)["held"]
    keeper.generator.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = keeper.terms(NEW_ROWS)["held"]
    assert plain > 0.001
    torch.testing.assert_close(mixed, plain, rtol=0.3, atol=0.0)


def test_what_chooses_its_own_rows_is_refused():
    with pytest.raises(UserError, match="Joint chooses what is trained on"):
        Keeper(Joint(), model(), OLD_ROWS)
    assert Keeper(Freeze(), model(), OLD_ROWS).model is not None


def test_a_chat_model_writes_questions_and_answers_of_its_own():
    tokenizer = word_tokenizer(["sky", "is", "blue", "green"])
    tokenizer.chat_template = "{% for m in messages %}is {{ m['content'] }} blue{% endfor %}"
    rows = self_written_rows(causal_lm(len(tokenizer), d_model=16, n_layers=1, n_heads=2), tokenizer, 8, tokens=6)
    assert len({str(row) for row in rows}) == 8
    assert all(row["question"] and row["answer"] for row in rows)


class Watched(Continual):
    """Writes down which hook was called, and whether the model was in training then."""

    def __init__(self):
        self.seen = []

    def before_task(self, state, model, data):
        self.seen.append(("before task", data.number, model.training))
        return state

    def gradients(self, state, model):
        self.seen.append(("gradients", model.training))

    def after_step(self, state, model):
        self.seen.append(("after step", model.training))

    def after_task(self, state, model, data):
        self.seen.append(("after task", data.number, model.training))
        return state


def test_every_hook_is_called_in_its_place_and_between_tasks_the_model_is_at_rest(tmp_path):
    steps = [("gradients", True), ("after step", True)] * STEPS
    expected = [("after task", 0, False), ("before task", 1, False), *steps, ("after task", 1, False)]
    mine, net = Watched(), model().train()
    in_a_loop(mine, net, NEW_ROWS, old=OLD_ROWS)
    assert mine.seen == expected
    assert net.training
    theirs, net = Watched(), model().train()
    keeping = Keeping(theirs, net, OLD_ROWS)
    run = trainer(net, tmp_path, keeping)
    keeping.attach(run)
    run.train()
    assert theirs.seen == expected

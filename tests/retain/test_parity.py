"""One step of each baseline beside Mammoth's, the code of DER's authors (aimagelab/mammoth at e75a491): the gradients
that its `observe` (iCaRL: `get_loss`) gave on the same tensors, weights first, then biases."""

import pytest
import torch
from torch import nn

from palimpsest.retain.bic import BiC
from palimpsest.retain.buffers import Buffer, Examples, class_balanced
from palimpsest.retain.continual import Present, everything_of
from palimpsest.retain.distillation import LwF
from palimpsest.retain.penalties import SI, diagonal_fisher
from palimpsest.retain.prototypes import ICaRL, PrototypeReplay, StreamingLDA
from palimpsest.retain.replay import AGEM, ER, DERpp
from palimpsest.train.gradients import flat_gradient

# fmt: off
THEIRS = {
    "er": [
        0.026483150966, -0.19698562918, -0.259092153755, -0.09458917115, 0.093751488743, 0.228070363783,
        0.170073762624, -0.041072017967, -0.120234639709, -0.031084734602, 0.089018391131, 0.135661189117,
        -0.020699749462, -0.076128315399, 0.096828064861],
    "der_pp": [
        0.041695113237, -0.020076261513, -0.509342296976, -0.233183294287, 0.117882806982, -0.018970326208,
        0.226668397472, 0.025532423841, -0.240825995193, -0.236662234989, 0.11380106923, 0.330159571504,
        0.215724651827, 0.111484022739, 0.029689270802],
    "a_gem": [
        -0.023405420091, -0.059059511867, -0.148764280637, -0.200260787714, 0.172467248923, 0.086813920496,
        0.031517156665, 0.013737444379, -0.149061828831, -0.027754408629, 0.117247123973, 0.186523343335,
        0.083082277775, -0.05289434672, -0.030187931055],
    "lwf": [
        -0.089618774157, -0.191764797594, -0.203720840315, -0.119863788609, 0.190109077911, 0.202425367113,
        0.119537843179, -0.019570196233, -0.100490303753, -0.010660569519, 0.084182997135, 0.139433984842,
        0.13363059204, -0.001124629236, -0.132505962804],
    "icarl": [
        0.002693381015, -0.007631316453, -0.014366886551, -0.014345485415, -0.001838661313, -0.004539176153,
        -0.005104845522, -0.003269626277, -0.035666951788, -0.009090514908, 0.021761333177, 0.042378486239,
        0.007864304171, 0.017810963559, 0.067919153891],
}
# fmt: on


def table(rows, columns, rate):
    return torch.sin(rate * torch.arange(1, rows * columns + 1, dtype=torch.float64)).reshape(rows, columns)


def batch(x, labels, **more):
    labels = torch.tensor(labels)
    return {"x": x, "labels": labels, "allowed": torch.ones(len(labels), 3, dtype=torch.bool), **more}


def network():
    net = nn.Linear(4, 3).double()
    with torch.no_grad():
        net.weight.copy_(table(3, 4, 1.7))
        net.bias.copy_(table(1, 3, 0.9)[0])
    return net


def earlier():
    """The weights of the old model, whose logits are 0.5 z + 0.2."""
    return {name: 0.5 * value + 0.2 * (name == "bias") for name, value in everything_of(network()).items()}


FIRST, SECOND, LOGITS = table(6, 4, 1.1), table(6, 4, 1.9), table(6, 3, 2.3)
ONE, OTHER = [0, 0, 1, 1, 0, 1], [1, 0, 0, 1, 1, 0]
OLD = torch.tensor([True, True, False])


@pytest.mark.parametrize(
    ("name", "method", "state", "more"),
    [
        ("er", ER(), {}, {"memory": batch(FIRST, ONE)}),
        (
            "der_pp",
            DERpp(alpha=0.3, beta=0.7),
            {},
            {"dark": batch(FIRST, ONE, logits=LOGITS), "memory": batch(SECOND, OTHER)},
        ),
        ("a_gem", AGEM(), {}, {"memory": batch(FIRST, [1 - label for label in ONE])}),
        # Mammoth's alpha = 0.5 is on the soft cross-entropy at T = 2, without T^2.
        ("lwf", LwF(strength=0.5 / 4, temperature=2.0), {"old": earlier(), "heads": OLD[None]}, {}),
        ("icarl", ICaRL(), {"old": earlier(), "taught": OLD, "known": torch.ones(3, dtype=torch.bool)}, {}),
    ],
)
def test_a_step_has_the_gradient_of_mammoth_s(name, method, state, more):
    net = network()
    sum(method.loss(state, net, batch(table(5, 4, 0.7), [0, 1, 2, 2, 1], **more)).values()).backward()
    plain = flat_gradient(list(net.parameters()))
    if hasattr(method, "gradients"):
        method.gradients(state, net)
    found = flat_gradient(list(net.parameters()))
    torch.testing.assert_close(found, torch.tensor(THEIRS[name], dtype=torch.float64), rtol=0, atol=1e-11)
    assert name != "a_gem" or not torch.allclose(found, plain), "the reference conflicts with the batch"


def test_a_step_of_prototype_replay_has_the_gradient_of_pass_s():
    """Impression2805/CVPR21_PASS at 8b79993, `_compute_loss` at temperature 1, without its turned classes and without
    its distillation, which is the norm of all differences of the batch and no mean of squares."""

    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(4, 3).double(), nn.Linear(3, 3).double()
            with torch.no_grad():
                self.body.weight.copy_(table(3, 4, 1.7))
                self.body.bias.copy_(table(1, 3, 0.9)[0])
                self.head.weight.copy_(table(3, 3, 1.3))
                self.head.bias.copy_(table(1, 3, 0.7)[0])

        def features(self, x):
            return torch.tanh(self.body(x))

    net = Features()
    drawn = {**batch(SECOND, ONE), "features": table(2, 3, 2.3)[ONE]}
    rows = batch(table(5, 4, 0.7), [0, 1, 2, 2, 1], drawn=drawn)
    loss = sum(PrototypeReplay(strength=0.7, held=0.0).loss({"old": everything_of(net)}, net, rows).values())
    assert loss.item() == pytest.approx(1.9318477938718872, abs=1e-12)
    found = torch.cat([slope.flatten() for slope in torch.autograd.grad(loss, list(net.parameters()))])
    # fmt: off
    theirs = [
        -0.133152063025, -0.209949671436, -0.188004668817, -0.077638132799, -0.013285617284, 0.001293428262,
        0.015264154285, 0.022055910039, 0.148224219858, 0.28986297549, 0.295174644515, 0.161661065993,
        -0.026819972814, 0.139017732814, 0.107892957643, -0.019612874146, 0.472226137675, 0.001679524038,
        -0.016699291012, -0.001026826936, -0.151945905876, 0.036312165159, -0.47119931074, 0.150266381838,
        0.000779618769, -0.05446449336, 0.053684874591]
    # fmt: on
    torch.testing.assert_close(found, torch.tensor(theirs, dtype=torch.float64), rtol=0, atol=1e-11)


def test_discriminant_analysis_scores_as_deep_slda_does():
    """tyler-hayes/Deep_SLDA at bc15797, `predict`, of the same means and covariance. Its `fit` weighs a row by how many
    rows of any class came before, and so gives another covariance for another order."""

    class Same(nn.Linear):
        def features(self, x):
            return x

    rows = Examples({"x": table(40, 3, 1.9) + 0.5 * table(40, 3, 0.37), "labels": torch.arange(40) * 7 % 4})
    asked = {"x": table(4, 3, 2.9)}
    # fmt: off
    theirs = [
        [-0.11903661379433589, -0.06500765046876136, -0.10909295222969566, -0.13485081920316452],
        [0.16384691439412724, 0.1377712116715205, 0.19745715982959486, 0.22163607360628926],
        [-0.1528025971894424, -0.1692388932571185, -0.21573483469449786, -0.2217444147944215],
        [0.03843106397628258, 0.08766641504126181, 0.09638465462453329, 0.08563932312518174]]
    # fmt: on
    known = torch.ones(1, 4, dtype=torch.bool)
    for order in (torch.arange(40), torch.arange(40).flip(0)):
        method, state = StreamingLDA(), {}
        for part in order.split(13):
            there = Present(rows.at(part), 0, known, known[:0], torch.Generator())
            state = method.after_task(state, Same(3, 1), there)
        found = method.answer(state, Same(3, 1), asked)
        torch.testing.assert_close(found, torch.tensor(theirs, dtype=torch.float64), rtol=0, atol=1e-6)


def test_gdumb_keeps_as_many_rows_a_class_as_its_authors():
    """drimpossible/GDumb at 4f412d7: memory_size // classes of each, the first that come; here any, as likely."""
    rows = Examples({"labels": torch.tensor([0] * 50 + [1] * 9 + [2] * 30 + [3] * 20)})
    buffer, generator = Buffer(capacity=32), torch.Generator().manual_seed(0)
    for part in torch.randperm(109, generator=generator).split(20):
        buffer = class_balanced(buffer, rows.at(part), generator)
    assert buffer.labels.bincount().tolist() == [32 // 4] * 4


def test_a_step_of_bias_correction_has_the_gradient_of_pycil_s():
    """LAMDA-CL/PyCIL at f3509b8, models/bic.py, stage 1; the authors' TensorFlow has the same sum (resnet.py, 630)."""
    # fmt: off
    theirs = [
        -0.011406090366, -0.060116517258, -0.100690455558, -0.127636413059, 0.014004014478, 0.047304998062,
        0.074203472075, 0.091058854248, -0.002597924112, 0.012811519196, 0.026486983483, 0.036577558811,
        -0.027608586457, 0.074231687641, -0.046623101184]
    # fmt: on
    net, straight = network(), torch.tensor([[1.0], [0.0]]).double().expand(2, 3)
    state = {"old": earlier(), "heads": OLD[None], "share": 2 / 3, "lines": straight}
    sum(BiC().loss(state, net, batch(table(5, 4, 0.37), [0, 2, 1, 2, 0])).values()).backward()
    found = flat_gradient(list(net.parameters()))
    torch.testing.assert_close(found, torch.tensor(theirs, dtype=torch.float64), rtol=0, atol=1e-11)


def present():
    rows = Examples({"x": table(5, 4, 0.37), "labels": torch.tensor([0, 2, 1, 2, 0]), "task": torch.zeros(5).long()})
    every = torch.ones(1, 3, dtype=torch.bool)
    return Present(rows, 0, every, every[:0], torch.Generator().manual_seed(0))


def test_fisher_information_and_synaptic_intelligence_are_those_of_van_de_ven():
    """GMvandeVen/continual-learning at e6d795a, models/cl/continual_learner.py; its Fisher of n rows is divided by
    n - 1, the number of the last."""
    # fmt: off
    fisher = [
        0.114077050135, 0.123878751546, 0.138636713992, 0.150631595096, 0.125328730868, 0.138883128425, 0.15867110985,
        0.174342316539, 0.093472703607, 0.106569844028, 0.124860950069, 0.13877862308, 0.266708421618, 0.301601187891,
        0.232999501451]
    omega = [
        0.01435398611, 0.187754283647, 0.377445802351, 0.462860900142, 0.011799557376, 0.125642692499, 0.260464818707,
        0.337720590181, 0.004694961926, 0.012329784961, 0.063143124522, 0.12000496081, 0.027962231691, 0.264282754999,
        0.184516270966]
    # fmt: on
    net, data = network().eval(), present()
    found = torch.cat([value.flatten() for value in diagonal_fisher(net, data).values()])
    torch.testing.assert_close(found * 5 / 4, torch.tensor(fisher, dtype=torch.float64), rtol=0, atol=1e-11)

    method, sgd = SI(damping=0.1), torch.optim.SGD(net.parameters(), lr=0.5)
    state = method.before_task(method.init(net, data), net, data)
    for _ in range(3):
        sgd.zero_grad()
        sum(method.loss(state, net, batch(table(5, 4, 0.37), [0, 2, 1, 2, 0])).values()).backward()
        method.gradients(state, net)
        sgd.step()
    found = torch.cat([value.flatten() for value in method.after_task(state, net, data)["importance"].values()])
    torch.testing.assert_close(found, torch.tensor(omega, dtype=torch.float64), rtol=0, atol=1e-11)

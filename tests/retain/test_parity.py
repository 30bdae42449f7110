"""One step of each baseline beside Mammoth's, the code of DER's authors (aimagelab/mammoth at e75a491): the gradients
that its `observe` (iCaRL: `get_loss`) gave on the same tensors, weights first, then biases."""

import pytest
import torch
from torch import nn

from palimpsest.retain.continual import everything_of
from palimpsest.retain.distillation import LwF
from palimpsest.retain.prototypes import ICaRL
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

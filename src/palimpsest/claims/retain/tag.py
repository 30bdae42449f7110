"""Do steps that shrink where tasks disagree keep earlier tasks? (Malviya et al. 2021, 2105.05155)"""

from __future__ import annotations

from palimpsest.benches.arm import Recipe
from palimpsest.benches.bench import Measure
from palimpsest.benches.stream_worlds import ACCURACY, FORGOTTEN, StreamWorld
from palimpsest.benches.streams import PERMUTED_MNIST, rows_of
from palimpsest.evidence.sentences import at_least, beats, mechanism
from palimpsest.retain.replay import AGEM
from palimpsest.retain.sequence import InSequence, Learner
from palimpsest.retain.tag_learner import TAGLearner, alpha_history
from palimpsest.train.method import Applied

APART = "distance of relatedness from 1"


def related(world: StreamWorld, applied: Applied) -> dict[str, float]:
    """How far the weights of earlier tasks lie from 1, at which all count alike, over tensors and pairs of tasks."""
    state = applied.model.state if isinstance(applied.model, Learner) else {}
    if "memories" not in state:
        return {APART: 0.0}
    found = alpha_history(state["memories"])
    return {APART: float((found[~found.isnan()] - 1).abs().mean())}


claim = PERMUTED_MNIST.claim(
    paper="tag",
    question=(
        "Where the pixels of the same digits come in another order in each of five tasks, are all tasks known better "
        "in the end where a step is the smaller, the more the tasks before disagree with it, than where weights that "
        "mattered are held?"
    ),
    method=Recipe(InSequence(TAGLearner()), grid={"lr": [3e-4, 1e-3, 3e-3], "b": [3.0, 5.0]}),
    arms={
        "all tasks alike": {"b": 0.0},
        "a_gem": Recipe(InSequence(AGEM(size=rows_of(40_000, 14))), settings={"lr": 0.3, "optimizer": "sgd"}),
    },
    then=related,
    read={APART: Measure("higher", None)},
    alive=[at_least(0.05, on=APART)],
    central=beats("ewc", on=ACCURACY, share_of_room=0.10),
    also=[
        mechanism(beats("all tasks alike", on=ACCURACY, by=0.0)),
        mechanism(beats("fine-tuning", on=FORGOTTEN, by=0.02)),
        mechanism(beats("a_gem", on=ACCURACY, by=0.0)),
    ],
    differs=(
        "The paper is told the task, has a head for each, and sees up to 20 tasks of CIFAR-100, CUB and others once, "
        "ten images at a time. Here five tasks of the same ten digits share one head and are seen in 200 batches of "
        "32. With b = 0 all tasks count alike in the denominator, at the tuned rate; A-GEM has the rate that was best "
        "for it on pilot seeds."
    ),
)

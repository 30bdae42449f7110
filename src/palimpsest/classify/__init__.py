"""Say which: supervised losses for labels that are many, few, unbalanced or wrong.

The hall: `label_losses` (what `palimpsest classify` offers, in one form), `saved` (classifiers on disk, with what they
must know to predict), `family` (the command). The losses that all rooms compare with are in
`palimpsest.losses.classification`, calibration in `palimpsest.metrics.calibration`. The names below can be imported
from here.
"""

from __future__ import annotations

from palimpsest.lazy import front_door

_ROOMS = {
    "label_losses": (
        "ClassWeights",
        "CrossEntropy",
        "GeneralizedCE",
        "LabelSmoothing",
        "LogitAdjustment",
        "Squentropy",
    ),
    "saved": ("Classifier", "load_classifier", "save_classifier"),
    "squentropy": ("decision_norm", "rescaled_square", "squentropy_loss"),
}

__getattr__, __dir__, __all__ = front_door(__name__, _ROOMS)

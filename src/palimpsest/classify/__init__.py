"""Say which: supervised losses for labels that are many, few, unbalanced or wrong.

The hall: `label_losses` and `label_set_losses` (losses of one label a row and of several, in one form each), `logits`
(what losses ask of arguments), `saved` (classifiers on disk, with what they must know to predict), `family` (the
command). The losses that all rooms compare with are in `palimpsest.losses.classification` and `multilabel`; what
classifiers are measured by in `palimpsest.metrics`. The names below can be imported from here.
"""

from __future__ import annotations

from palimpsest.lazy import front_door

_ROOMS = {
    "aem": ("AEM", "aem_loss", "concentration", "mask_top", "subsample"),
    "asl": ("asymmetric_loss",),
    "asl_measures": (
        "AdaptiveGamma",
        "negative_gradient",
    ),
    "asl_softmax": ("asymmetric_softmax",),
    "bag_pooling": ("ClassTokenAttention", "CriticalInstance", "GatedAttention", "masked_log_softmax"),
    "boostlu": ("CamClassifier", "LargeLoss", "boost_lu", "large_loss"),
    "em_apl": ("EMAPL", "em_apl_loss", "update_pseudo"),
    "encouraging_loss": ("ablated_loss", "energy_score", "margin_stats", "spread_within"),
    "label_losses": (
        "ClassWeights",
        "CrossEntropy",
        "EncouragingLoss",
        "GeneralizedCE",
        "LabelSmoothing",
        "LogitAdjustment",
        "Squentropy",
        "ZLoss",
    ),
    "label_set_losses": (
        "Asymmetric",
        "BinaryCE",
        "BinaryFocal",
        "Dice",
        "EntropyMaximization",
        "WeakNegatives",
        "WeightedBCE",
    ),
    "reject_option": ("Rejector", "agreement", "chow", "fit_threshold", "trust"),
    "reject_option_integrated": ("SelectiveHeads", "SelectiveNet", "abstain_loss", "selective_loss"),
    "reject_option_novelty": ("Familiarity",),
    "saved": ("Classifier", "load_classifier", "save_classifier"),
    "sed_dice": ("CRNN", "augment", "event_dice_loss", "transfer"),
    "sed_dice_measures": ("EventScores", "event_scores"),
    "simpsons_bias": (
        "bias_curve",
        "corpus_bleu",
        "dice_of_tokens",
        "reversal_rate",
        "sentence_bleu",
        "simpson_bias",
    ),
    "squentropy": ("decision_norm", "rescaled_square", "squentropy_loss"),
    "z_loss": ("standard_score", "taylor_cross_entropy", "topk_error"),
    "z_loss_output": ("SphericalOutput",),
}

__getattr__, __dir__, __all__ = front_door(__name__, _ROOMS)

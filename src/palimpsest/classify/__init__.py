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
    "class_compress": ("ClassDependentLoss", "auc_surrogate", "error_rates", "fn_fp_loss"),
    "class_compress_rounds": ("Pruned", "iterative_prune"),
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
    "legendretron": ("LegendreLink", "LegendreTron"),
    "legendretron_measures": ("FreeLink", "flip_labels", "induced_loss"),
    "loki": ("embedding_distance", "graph_distance", "loki_predict", "squared_distance", "tree_distance"),
    "loki_locus": ("is_cover", "locus", "next_class"),
    "number_token_loss": ("ntl_mse", "ntl_was", "number_values"),
    "number_token_loss_measures": ("number_metrics", "wasserstein_1d"),
    "pcngd": ("class_grads", "first_order", "gd_direction", "minority_drops", "pcngd_direction"),
    "pcngd_training": ("directional_noise", "learning_lag", "minority_initial_drop"),
    "protogcd": ("entropy_reg", "pseudo_labels", "self_label_loss", "separation"),
    "protogcd_training": ("ProtoGCD", "ProtoHead", "estimate_k", "gcd_accuracy", "outlier_score"),
    "reject_option": ("Rejector", "agreement", "chow", "fit_threshold", "trust"),
    "reject_option_integrated": ("SelectiveHeads", "SelectiveNet", "abstain_loss", "selective_loss"),
    "reject_option_novelty": ("Familiarity",),
    "sade": ("SADE", "ThreeExperts", "sade_loss"),
    "sade_test_time": ("aggregate", "make_test"),
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
    "sovr": ("AdversarialTraining", "gairat_weights", "mail_weights", "ovr_loss", "sovr_loss"),
    "sovr_margins": ("margin_growth",),
    "squentropy": ("decision_norm", "rescaled_square", "squentropy_loss"),
    "z_loss": ("standard_score", "taylor_cross_entropy", "topk_error"),
    "z_loss_output": ("SphericalOutput",),
}

__getattr__, __dir__, __all__ = front_door(__name__, _ROOMS)

"""Keep: continual learning, plasticity, backward compatibility.

The hall: `continual` (what a continual method is), `sequence` (a stream learned task by task, by one `fit` a task, and
what is measured on the way), `buffers` (which rows are kept), and what all rooms compare with: `replay` (fine-tuning,
joint training, ER, DER++, A-GEM, GDumb), `penalties` (EWC, SI, L2 to the first weights, interpolation), `distillation`
(LwF), `old_answers` (the same on old rows), `freezing`, `prototypes` (iCaRL, nearest class mean, streaming LDA, drawn
features), `renewal` (first weights again, shrink and perturb); `methods` has them by name; `tokens` is what they need
where a language model learns. Streams are in `palimpsest.tasks.streams`, projections of gradients in
`palimpsest.train.gradients`. The names below can be imported from here.
"""

from __future__ import annotations

from palimpsest.lazy import front_door

_ROOMS = {
    "adaptive_margins": ("amarx_loss", "db_loss", "enlarged"),
    "amgc": ("AMGC",),
    "amgc_measures": ("old_new_bias",),
    "bcwi": ("BCWI", "fisher_interpolated", "select_share"),
    "bcwi_measures": ("negative_flip_rate", "positive_flip_rate", "share_of_errors_that_are_new"),
    "bfp": ("BFP",),
    "bic": ("BiC", "fit_line"),
    "buffers": ("Buffer", "Examples", "class_balanced", "herding", "reservoir", "ring", "rows_within"),
    "center_loss_reg": ("CenterLossReg", "center_loss", "moved_centers"),
    "continual": ("Continual", "Present"),
    "continual_backprop": ("ContinualBackprop",),
    "cpt_stability_gap": (
        "Bigrams",
        "budget_table",
        "continual_pretrain",
        "gap_curve",
        "mixture",
        "subset_epochs",
        "top_quality",
    ),
    "distillation": ("LwF",),
    "feature_projection": ("bfp_loss", "project"),
    "foster": ("FOSTER",),
    "foster_boosting": ("class_weights",),
    "freezing": ("Freeze",),
    "fwd_prompt": ("FwdPrompt", "core_space", "embedding_discrepancy", "projected"),
    "gem": ("GEM", "violation_rate"),
    "generative_replay": ("GenerativeReplay",),
    "growing_when_required": ("GWR",),
    "happy": ("Happy",),
    "happy_losses": ("hardness", "soft_entropy"),
    "hard_ash": ("HardASH", "ash", "hard_ash"),
    "hfc": ("HFC", "gradient_balanced_weights"),
    "homeostatic": ("Constant", "Homeostat", "RandomWalk"),
    "ideal_continual_learner": ("ICLFeatures", "ICLRegression"),
    "keeper": ("Keeper",),
    "lifelong_review": ("run_all", "taxonomy"),
    "methods": ("METHODS",),
    "napa_vq": ("NAPAVQ",),
    "napa_vq_measures": ("overlap",),
    "neighbour_graph": ("distances", "neighbourhood_loss", "updated"),
    "old_answers": ("OldAnswers",),
    "online_learning": ("Online",),
    "pec": ("PEC", "prediction_errors"),
    "pec_measures": ("posterior_variance",),
    "penalties": ("EWC", "Interpolation", "L2Init", "OnlineEWC", "SI", "diagonal_fisher"),
    "plasticity_probes": ("Plasticity", "diagnostics", "plasticity"),
    "plwf": ("PLwF", "credit_assignment"),
    "power_law_rehearsal": ("PowerLawRehearsal", "matched_budget", "rehearsal_weights", "tasks_met"),
    "power_law_rehearsal_measures": ("fit_power", "forward_facilitation"),
    "progressive_columns": ("ProgressiveColumns",),
    "prompt_pool": ("PromptPool", "PromptedLM"),
    "prototypes": ("ICaRL", "NearestClassMean", "PrototypeReplay", "StreamingLDA"),
    "recall_retention": ("recall", "recognition", "retention", "study"),
    "rehearsal_kd": ("RehearsalKD",),
    "renewable_adam": ("RenewableAdam",),
    "renewal": ("Restart", "ShrinkPerturb"),
    "replay": ("AGEM", "DERpp", "ER", "FineTune", "GDumb", "Joint"),
    "selective_init": ("SelectiveInit", "transfer_curve"),
    "selective_init_tasks": ("TopicTask", "make_sequence"),
    "self_written": ("self_written_rows",),
    "sequence": ("InSequence", "Learner", "learn_stream"),
    "spectral_reg": ("SpectralReg",),
    "spurious_forgetting": ("FreezeBottom", "freeze_bottom", "recovery_probe"),
    "spurious_forgetting_measures": ("loss_plane", "update_angle"),
    "stability_gap": ("ContinualEvaluator", "TracedER", "gap_report", "grad_decomposition"),
    "sycon": ("SyCON", "sycon_in_batch", "sycon_loss"),
    "task_semantic_aggregation": ("AggregatingClassifier", "TaskSemanticAggregation", "forgetting_spread"),
    "tokens": ("TokenRows", "token_stream"),
    "trainer": ("Keeping", "WithReplay"),
    "unlabelled": ("CaSSLe", "MoCo", "Projecting"),
    "wasserstein_init": ("WassersteinInit",),
    "weight_aligning": ("WeightAligning", "aligning_factor"),
}

__getattr__, __dir__, __all__ = front_door(__name__, _ROOMS)

"""Look inside: what a network remembers, and whether a comparison means what it says.

Rooms, one paper each:

- `palimpsest.audit.hark`: hypothesising after the results are known and the rules against it; in `hark_measures` what
  each habit costs;
- `palimpsest.audit.model_evaluation`: which test for which comparison, and `compare`, which applies it.

Their hall: `palimpsest.audit.significance` (tests, corrections, intervals), `palimpsest.audit.resampling` (splits,
cross-validation, nested selection, the .632+ bootstrap), `palimpsest.audit.ledger` (rows that chain by hash),
`tuning_ledger` (trials counted for every arm), `verdict_words`, `choice_of_test` and `paired_scores`. The names below
can be imported from here; SciPy and scikit-learn are loaded with the first of them.
"""

from __future__ import annotations

from palimpsest.lazy import front_door

_ROOMS = {
    "choice_of_test": ("Choice", "choose_test"),
    "hark": ("Prereg", "amend"),
    "hark_measures": ("SelectiveReport", "harking_rate", "selective_report"),
    "model_evaluation": ("Comparison", "Pair", "compare"),
    "resampling": (
        "BootstrapError",
        "NestedScores",
        "bootstrap_error",
        "cross_scores",
        "five_by_two",
        "folds",
        "holdout",
        "leave_one_out",
        "nested_cv",
        "no_information_rate",
        "out_of_fold",
        "point632",
        "point632_plus",
        "random_splits",
    ),
    "significance": (
        "InflatedTestWarning",
        "Outcome",
        "benjamini_hochberg",
        "bonferroni",
        "bootstrap_interval",
        "cochran_q",
        "f_5x2",
        "friedman",
        "holm",
        "kfold_t",
        "mcnemar",
        "normal_interval",
        "paired_t",
        "paired_t_5x2",
        "resampled_t",
        "wilcoxon",
    ),
    "tuning_ledger": ("TuningLedger",),
}

__getattr__, __dir__, __all__ = front_door(__name__, _ROOMS)

"""Names that stood in a room are found there whatever has moved out of it, and a room stays short."""

from importlib import import_module
from pathlib import Path

import pytest

import palimpsest
from palimpsest.catalogue import entries

ROOT = Path(palimpsest.__file__).parent
LINES = 150
LONGER = {
    "concept_vectors": 214,
    "dbpm": 152,
    "relearn": 251,
    "unstar": 280,
}
"""rooms that have more, and how much: no more than that"""

STOOD = {
    "audit.hark": """
        Finding GENESIS LEAST_SEEDS PAPER_WORDS POLICIES Policy Prereg Row SelectiveReport TUNING_SEEDS
        TamperedLedger Trial TuningLedger UnequalTuning VERDICT_SEEDS WORDS Word amend canonical_json chain
        check_verdict_seeds decide digest harking_rate next_hash selective_report verdict verify_chain
    """,
    "audit.model_evaluation": """
        Choice Comparison ENOUGH_SEEDS Items Pair choose_test compare
    """,
    "classify.squentropy": """
        decision_norm rescaled_square squentropy_loss
    """,
    "contrast.amcl": """
        AMCL ELEMENTS Heads MultiHead PairTemperature Temperatures amcl_loss amcl_queue_loss multi_head_loss
        pair_temperature start_bias temperature_penalty
    """,
    "contrast.cacr": """
        cacr_loss cacr_weights multi_view_cacr queue_cacr weights_report
    """,
    "contrast.dbpm": """
        BadPairs DBPM PairMemory bad_pairs nt_xent_per_sample pair_weights
    """,
    "contrast.debiased_cl": """
        Gap bias_gap debiased_loss hard_debiased_loss log_negative_term oracle_loss
    """,
    "contrast.decoupled_cl": """
        dcl_loss dcl_queue_loss dclw_loss npc_multiplier positive_weights
    """,
    "contrast.diet": """
        DIET IndexTargets IndexedViews diet_loss loss_tracks_probe
    """,
    "contrast.gradcache": """
        GradCache Rows naive_accumulation
    """,
    "contrast.groco": """
        ROWS diff_sort groco_loss top_probability views_nt_xent
    """,
    "contrast.hypersphere_novel": """
        NormSoftmax add_classes classify contrastive_loss cosines novel_accuracy novel_weights triplet_loss
    """,
    "contrast.inf_cl": """
        SAFE ring_nce tiled_nce
    """,
    "contrast.info_nce": """
        DIGITS Labels SMALL info_nce nt_xent reference_info_nce
    """,
    "contrast.llave": """
        MOST Reward SCALE checked_scale gather gradient_share hardness_nce negatives overlap
    """,
    "contrast.macl": """
        adaptive_tau alignment macl_loss uniformity_tolerance
    """,
    "contrast.moco_dualview": """
        dual_view_loss hard_mask hard_negatives queue_nce
    """,
    "contrast.nonneg_cl": """
        Factors Match NonNegative accuracy_kept alive class_consistency dim_correlation ncl_loss nonneg
        nonneg_ce nonneg_logits population_loss rotation_test select_dims semi_nmf_check sparsity
        spectral_loss
    """,
    "contrast.siglip": """
        MODES SigmoidLoss SoftmaxLoss T_SOFTMAX chunked_sigmoid_loss keep_negatives sigmoid_loss softmax_loss
        zero_shot
    """,
    "contrast.w_mse": """
        LEFT views_mse w_mse whiten
    """,
    "forget.booster": """
        Alignment Booster RepNoise SCALES TINY Vaccine attack attenuation booster_step finetune_accuracy
        global_norm harmful_score mixed mmd stepped vaccine_loss
    """,
    "forget.causal_whp": """
        CausalWHP Distilled GIB INSTRUCTION NAMED Probe Renamed WHP causal_whp_loss criteria fabrications hard
        kept_positions lead_in move_mass read readable renamings teacher_distribution whp_distribution
        whp_loss
    """,
    "forget.concept_vectors": """
        CHUNK CausalCheck ColumnAscent ConceptVector JAILBREAKS Location Needle ValueMatricesOnly add_noise
        causal_check concept_vectors_score distinctive_tokens find_concept_vectors intrinsic_scores
        jailbreak_prompts needle read_concepts top_tokens value_vector value_vectors
    """,
    "forget.corrupted_prompts": """
        EcoLM MODES Mode NOISE corrupt corruptible
    """,
    "forget.data_erasure_survey": """
        Adapter BOTH EUL Entry KGA Kind NewRows PrefixedLM Question TaskVector answer_kl flipped icul_context
        insert_adapters labels_of mean_kl ppu_rows registry scorecard task_vector unlearn
    """,
    "forget.eco_prompts": """
        ECO EcoLM MODES Mode NOISE corrupt corruptible forget_measure nearest_answers zo_search
    """,
    "forget.eight_methods": """
        Completion Language NEW_TOKENS PRETEND Suite TELLS TESTS accuracy completions facts_shown familiarity
        grade measures placed relearn_attack relearned robust_suite word_substitution
    """,
    "forget.flat": """
        DIVERGENCES Divergence FLAT conjugate flat_loss mean_probability variational
    """,
    "forget.knowundo": """
        BASELINES KnowUnDoScores MemFlex Rows SetScores accuracy knowundo_score memflex_locate random_answers
        region
    """,
    "forget.npo": """
        NPO logistic_divergence npo_loss npo_total npo_weight
    """,
    "forget.open_problems_unlearning": """
        HEADINGS RelearnCost SafetyInteraction accuracy compositional_recovery dual_use_cost evaluation_gap
        order_dependence refusal_rate relearn_cost report safety_interaction
    """,
    "forget.pistol": """
        METHODS PistolScores SETS choose_learning_rate deviation_score mean_reciprocal_rank pistol_graph
        pistol_score top_hit_ratio
    """,
    "forget.pretrained_unlearning": """
        AdversarialLabel METHODS RandomTokens approximate_gold perplexity report robustness seven_methods tune
    """,
    "forget.prompt_gate": """
        CERTAIN Encoder EncoderName GuardedLM MeanEmbedding PromptGate REMEMBERED RefusalGuard
        conformal_threshold fit_gate flagged minilm prompt_encoder prompt_positions refusal_ids
    """,
    "forget.refusal_guard": """
        CERTAIN GuardedLM RefusalGuard refusal_ids
    """,
    "forget.relearn": """
        Contradicts MOST_HONORE ReLearn Reference Vague Vary augment brunet entity_coverage honore kfr krr
        linguistic_score perplexities relearn_loss rewritten share_distinct states_another
    """,
    "forget.rwku": """
        ATTACKS BARE Frames Item METHODS RECALLED RwkuScores Steering UNLEARNED adversarial_probe rwku_score
    """,
    "forget.sae_unlearning": """
        SaeClamp clamped clamping flipping_feature hook residual_stream select_features side_effect
    """,
    "forget.simnpo": """
        SimNPO simnpo_loss simnpo_weight
    """,
    "forget.skill_unlearning": """
        KeyGuardedLM KeySpace KeySpaceDetection LEAST NeuronAdjust adjusted probe prompt_keys
    """,
    "forget.tofu": """
        ForgetQuality NEW_TOKENS RowScores SMALLEST_LOG10 TEMPLATES TofuScores TofuTemplate answer_probability
        choice_probability evaluate_tofu forget_quality model_utility tofu_score truth_ratio
    """,
    "forget.truly_unlearn": """
        SHOTS Way benign_finetune black_box_suite capability_cost letter_accuracy read_questions recovery
        rephrasings
    """,
    "forget.uld": """
        ULD UnlearnedLM assistant_loss make_assistant merge_lora uld_logits uniform_kl
    """,
    "forget.unforgettable": """
        MAX_TOKENS RandomOptions accuracy forget_matrix forget_ratio last_token_states option_probabilities
        predictor_correlations predictors probe_recovery random_label_forget random_labels total_variance
    """,
    "forget.unstar": """
        Check RATIONALES Round StandIns TEXTS UnStar related
    """,
    "forget.wagle": """
        FISHER_ROWS Wagle baseline_mask fisher_median wagle_mask wagle_scores
    """,
}


@pytest.mark.parametrize("room", STOOD)
def test_what_stood_in_a_room_is_found_there(room):
    module = import_module(f"palimpsest.{room}")
    assert [name for name in STOOD[room].split() if not hasattr(module, name)] == []


ROOMS = [entry for entry in entries() if entry.is_paper]


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.id)
def test_a_method_stands_in_few_lines(room):
    text = ROOT.joinpath(room.family, f"{room.id}.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGER.get(room.id, LINES)

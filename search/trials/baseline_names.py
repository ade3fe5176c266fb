"""What the baselines of a study are called, for people; `search.sampling.baselines` makes their candidates."""

BASELINE_NAMES = {
    "linear_probe": "linear probe on the target",
    "zero_shot": "zero-shot, first template",
    "linear_probe_with_source": "linear probe on target and source",
    "contrastive_source": "contrastive training on the source, then a linear probe",
    "contrastive": "contrastive training on the target, then a linear probe (SetFit)",
    "full_fine_tuning": "full fine-tuning on the target",
}

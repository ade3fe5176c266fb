"""What the baselines of a study are called, for people; `search.sampling.baselines` makes their candidates."""

BASELINE_NAMES = {
    "linear_probe": "linear probe on the target",
    "neighbours": "item-kNN alone",
    "ease": "EASE alone",
    "words": "TF-IDF of words alone",
    "characters": "TF-IDF of characters alone",
    "items": "TF-IDF of items alone",
    "zero_shot": "zero-shot, first template",
    "linear_probe_with_source": "linear probe on target and source",
    "contrastive_source": "contrastive training on the source, then a linear probe",
    "contrastive": "contrastive training on the target, then a linear probe (SetFit)",
    "full_fine_tuning": "full fine-tuning on the target",
}


def baseline_label(name: str) -> str:
    """Return what people call a baseline; `NAME@BACKBONE` is one on one of several backbones."""
    base, _, backbone = name.partition("@")
    return f"{BASELINE_NAMES[base]}, on {backbone}" if backbone else BASELINE_NAMES[base]

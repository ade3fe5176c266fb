"""The model card of a bundle, in Hugging Face's format."""

from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from promptgraft.bundles import Manifest
from promptgraft.search.exporting.confidence import Confidence, confidence_lines
from promptgraft.search.storage import Opening
from promptgraft.search.study import Study
from promptgraft.search.wording import fenced, in_markdown, rounded

_TASKS = {
    ("text", "labels"): "text-classification",
    ("images", "labels"): "image-classification",
    ("images", "masks"): "image-segmentation",
    ("images", "boxes"): "object-detection",
}


def render_model_card(
    study: Study, manifest: Manifest, opened: Opening | None, confidence: Confidence | None = None
) -> str:
    """Write the model card.

    Args:
        study: The study.
        manifest: The bundle's manifest.
        opened: What the test rows told, if they were opened for this trial; see `search.judging.test_set.opened_for`.
        confidence: How sure it may be of its predictions, if that could be measured.
    """
    metric = study.file.metric
    target = study.target
    least = manifest.candidate.get("self_training")
    source = study.sources.get(str(manifest.candidate.get("source", "")))
    chosen_by = f"on {len(target.validation)} validation rows"
    if target.folds > 1:
        chosen_by = f"over {target.folds} folds of them"
    validation = rounded(manifest.metrics["validation"][metric])
    lines = [
        "---",
        _metadata(study, manifest).to_yaml(),
        "---",
        "",
        f"# {study.name}, trial {manifest.trial}",
        "",
        f"{target.purpose} {', '.join(map(in_markdown, manifest.labels))}. A delta to `{_name(manifest)}` "
        f"({manifest.backbone.family}), found by promptgraft.",
        "",
        "```",
        "promptgraft verify .",
        "promptgraft predict . --input new.csv --output predictions.csv",
        "```",
        "",
        "## Candidate",
        "",
        *[f"- `{name}`: {value}" for name, value in manifest.candidate.items()],
        "",
        *fenced(manifest.template.text),
        "",
        *_members(manifest),
        *_shown_rows(manifest),
        "## Data",
        "",
        f"Trained on {len(target.labelled if target.folds > 1 else target.train)} target rows"
        + (f" and {len(source.train)} source rows" if source else "")
        + (f", and on unlabelled rows with a label of probability {least:g} or more by the model" if least else "")
        + f"; chosen by {metric} {chosen_by}.",
        "",
        "## Evaluation",
        "",
        f"Validation {metric}: {validation} (chosen in a search, so optimistic).",
        "",
    ]
    if opened is not None and opened.table:
        lines += [f"| on {len(study.target.test)} held-out rows | {metric} |", "| --- | ---: |"]
        lines += [f"| {name} | {rounded(metrics[metric])} |" for name, metrics in opened.table or ()]
    for name, (low, high) in manifest.intervals.get("test", {}).items():
        lines += ["", f"Interval of the winner's {name} on rows like these: {rounded(low)} to {rounded(high)}."]
    if opened and opened.transfer:
        lines += ["", opened.transfer["sentence"]]
    if confidence:
        lines += ["", "## Confidence", "", *(f"- {line}" for line in confidence_lines(confidence)), ""]
        lines += ["| decides from | on | right |", "| ---: | ---: | ---: |"]
        points = confidence.coverage
        lines += [f"| {point.threshold:.2f} | {point.coverage:.0%} | {point.accuracy:.1%} |" for point in points]
    return "\n".join(lines) + "\n"


def _members(manifest: Manifest) -> list[str]:
    """Name the other models of an ensemble, and their price."""
    if not manifest.members:
        return []
    models = manifest.models
    shares = ", ".join(f"trial {member.trial} ({member.weight:.2f})" for member in models)
    return [
        f"An ensemble: the mean probabilities of {shares}. It takes {len(models)} times the work of one model, and "
        "the memory of one and of what each has changed.",
        "",
    ]


def _metadata(study: Study, manifest: Manifest) -> ModelCardData:
    """Name what the hub's pages and tools read: the task, the base model, and the scores on test rows."""
    found = manifest.metrics.get("test", {})
    results = [
        EvalResult(
            task_type=_TASKS[study.target.reads, study.target.answers],
            dataset_type=Path(study.file.target.train).name,
            dataset_name=f"{Path(study.file.target.train).name}, test rows",
            dataset_revision=str(manifest.data.get("test rows")),
            metric_type=name,
            metric_value=value,
        )
        for name, value in found.items()
    ]
    return ModelCardData(
        library_name="promptgraft",
        pipeline_tag=_TASKS[study.target.reads, study.target.answers],
        tags=["prompt-tuning", "transfer-learning", *([] if study.target.one_label else [study.file.target.kind])],
        base_model=_name(manifest),
        model_name=f"{study.name}-trial-{manifest.trial}" if results else None,
        eval_results=results or None,
    )


def _name(manifest: Manifest) -> str:
    """Return a hub id, or the last part of a path, which is nobody else's business."""
    path = Path(manifest.backbone.path)
    return path.name if path.is_absolute() else manifest.backbone.path


def _shown_rows(manifest: Manifest) -> list[str]:
    """Say that the bundle holds rows of the study, which not everyone may see."""
    count = len(manifest.demonstrations)
    return [f"`manifest.json` holds {count} training rows in clear text, for demonstrations.", ""] if count else []

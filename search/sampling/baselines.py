"""Baselines: what a user would try without a search. They are a study's first trials, raced with all others."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice

import optuna
from optuna.storages import RDBStorage

from promptgraft.objectives.backbones import FAMILIES, model_folder
from promptgraft.objectives.data import PRIOR_BASELINES
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.search.storage import TrialRecord, baseline_attrs, study_lock
from promptgraft.search.study import Study
from promptgraft.search.trials import BASELINE_NAMES
from promptgraft.spaces import Candidate, SearchSpace, extremes

# Updates of each stage: on the source as many as in a default space, which then shares the stage; on the target about
# as many as SetFit's defaults come to on a handful of rows (Tunstall et al. 2022).
SOURCE_UPDATES, CONTRASTIVE_UPDATES = 80, 60
# Epochs of full fine-tuning, and the fewest and most updates that they may come to.
EPOCHS, LEAST_UPDATES, MOST_UPDATES = 8, 32, 200


def baseline_candidates(study: Study) -> dict[str, Candidate]:
    """Return the baselines that a study asks for and its backbones and tasks allow, cheap ones first, then strong ones.

    They need not be points of the study's own space: it may leave out what is simplest. Where there are several
    backbones, each baseline is tried on all of them, the smallest first, but for those that don't use it; all together
    take at most half of the trials, or as many as those of one backbone.

    Args:
        study: The checked study.

    Returns:
        Name -> candidate, canonical; `NAME@BACKBONE` where there are several backbones.
    """
    if not study.objective.space.backbones:
        return _allowed(study, _on(study, study.objective))
    on_each = {name: _on(study, study.objective.on(name)) for name in by_size(study)}
    most = max(study.file.budget.trials // 2, *map(len, on_each.values()))
    found = {
        f"{name}@{backbone}": replace(own[name], backbone=backbone)
        for name in BASELINE_NAMES
        for backbone, own in islice(on_each.items(), 1 if name in PRIOR_BASELINES else None)
        if name in own
    }
    return dict(islice(_allowed(study, found).items(), most))


def by_size(study: Study) -> list[str]:
    """Return the names of a study's backbones, the smallest first."""
    files = {name: model_folder(spec.backbone.path) for name, spec in study.objective.backbones.items()}
    return sorted(files, key=lambda name: sum(file.stat().st_size for file in files[name].glob("*.safetensors")))


def _allowed(study: Study, found: dict[str, Candidate]) -> dict[str, Candidate]:
    """Leave out what breaks a constraint."""
    bounds = study.constraints
    return {name: own for name, own in found.items() if bounds is None or not bounds.broken_by(own)}


def _on(study: Study, spec: ObjectiveSpec) -> dict[str, Candidate]:
    """Return the baselines on one backbone, given the study's fixed part on it."""
    target, space, family = study.target, spec.space, FAMILIES[spec.backbone.family]
    facts, head = space.facts, family.heads(target.heads)[0]
    first = Candidate(space.templates[0].id, space.first_verbalizer, head, decoding=space.first_decoding)
    source_name = next(iter(study.sources), "")
    source = study.sources.get(source_name)
    mixed = 0.5 if source is not None and set(target.labels) <= set(source.labels) else 0.0
    if head == "titles":
        first = replace(first, prior="neighbours")  # Whose first items are scored.
    found = {
        **({"zero_shot": replace(first, steps=0)} if family.has_words else {}),
        "full_fine_tuning": replace(
            first, head="linear" if facts.has_head else first.head, steps=_updates(study, space)
        ),
    }
    if facts.has_head:
        probe = replace(first, head="probe", steps=0, probe_c=family.probe_c)
        found["linear_probe"] = probe
        found["contrastive"] = replace(probe, contrastive_steps=CONTRASTIVE_UPDATES)
        if source is not None:
            found["contrastive_source"] = replace(
                probe,
                source_objective="contrastive",
                source_steps=SOURCE_UPDATES,
                source=source_name,
                alpha=mixed,
            )
        if mixed:
            found["linear_probe_with_source"] = replace(probe, alpha=mixed, source=source_name)
    for name in PRIOR_BASELINES:
        found[name] = replace(first, prior=name, text_weight=0.0, steps=0)
    found = {name: own for name, own in found.items() if not target.refuses_baseline(name)}
    wanted: list[str] = [name for name in BASELINE_NAMES if name in study.file.baselines and name in found]
    return {name: found[name].canonical(facts) for name in wanted}


def _updates(study: Study, space: SearchSpace) -> int:
    """Return how long full fine-tuning takes: a few epochs, and no less than the space lets others have."""
    parameter = next((entry for entry in space.parameters if entry.name == "steps"), None)
    searched = 0 if parameter is None else max(int(value) for value in extremes(parameter))
    if space.facts.has_head:
        epochs = EPOCHS * len(study.target.labelled) // Candidate("", "").batch_size
        return max(searched, min(MOST_UPDATES, max(LEAST_UPDATES, epochs)))
    return searched or LEAST_UPDATES


def queue_baselines(stored: optuna.Study, storage: RDBStorage, candidates: Mapping[str, Candidate]) -> None:
    """Queue a new study's first trials; those that were queued before aren't queued again.

    Args:
        stored: The study.
        storage: What holds it.
        candidates: Name -> candidate.
    """
    with study_lock(storage, stored.study_name):
        queued = {TrialRecord.of(trial).baseline for trial in stored.get_trials(deepcopy=False)}
        for name, candidate in candidates.items():
            if name not in queued:
                stored.enqueue_trial({}, user_attrs=baseline_attrs(name, candidate))

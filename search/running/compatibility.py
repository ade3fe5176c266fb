"""Whether an edited study file may go on under the same name, and what of it is recorded."""

import importlib.metadata
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import optuna

from promptgraft.search.reporting import save_study_note
from promptgraft.search.storage import (
    DEFINITION,
    EDITS,
    IDENTITY,
    RUN,
    STUDY_FILE,
    WANTED,
    Edit,
    Owner,
    RunRecord,
    StudyRecord,
    write_study,
)
from promptgraft.search.study import Study, flattened, study_identity
from promptgraft.search.trials import Limits
from promptgraft.spaces import InvalidInputError, masked_url

logger = logging.getLogger(__name__)

_VERSIONED = ("promptgraft", "optuna", "ray", "torch", "transformers", "peft", "scikit-learn")


def record_study(optuna_study: optuna.Study, study: Study, wanted: int) -> None:
    """Store what the study searches; go on with safe edits, and refuse the others.

    Raises:
        InvalidInputError: If an edit would put results under one name that can't be compared.
    """
    definition = _definition(study)
    identity = study_identity(study, definition)
    record = StudyRecord.of(optuna_study)
    attrs: dict[str, Any] = {WANTED: wanted, STUDY_FILE: str(study.path)}
    if not record.identity:
        save_study_note(optuna_study, study)
        optuna_study.set_metric_names([study.file.metric, *study.file.minimize])
    else:
        _check(study, record.identity, identity, "go on")
        edits = _named(_differences(record.definition, definition))
        if edits:
            logger.warning("study %s goes on with edits: %s", study.name, "; ".join(edits))
            attrs[EDITS] = _with_edits(record.stored(EDITS) or (), edits, identity["space"]["fingerprint"])
            save_study_note(optuna_study, study)
    # Written one by one, and cut off anywhere, by a kill or a storage that goes away: what the next attempt compares
    # with comes last.
    attrs |= {DEFINITION: definition, IDENTITY: identity}
    for name, value in attrs.items():
        if record.stored(name) != value:
            write_study(optuna_study, name, value)


def check_edits(optuna_study: optuna.Study, study: Study) -> None:
    """Refuse to export by a study file, or rows, that trials weren't run with.

    Raises:
        InvalidInputError: If an edit changes what a result means.
    """
    before = StudyRecord.of(optuna_study).identity
    if before:
        _check(study, before, study_identity(study, _definition(study)), "be exported")


def _definition(study: Study) -> dict[str, Any]:
    """Return a study file's content, but for where it is shown: that is no edit, and a webhook's URL is a secret."""
    return study.file.model_dump(mode="json", exclude_none=True, exclude={"track", "notify"})


def _with_edits(known: Sequence[dict[str, Any]], edits: list[str], fingerprint: str) -> list[dict[str, Any]]:
    """Append edits to those recorded, unless an attempt that was cut off has done so."""
    if known and (known[-1]["edits"], known[-1]["fingerprint"]) == (edits, fingerprint):
        return list(known)
    edit = Edit(datetime.now(UTC).isoformat(timespec="seconds"), edits, fingerprint)
    return [*known, asdict(edit)]


def record_run(optuna_study: optuna.Study, limits: Limits, concurrent: int, files: str, driver: Owner) -> None:
    """Store how the present run is limited and who runs it, for `status` and `watch` in another process."""
    versions = {name: importlib.metadata.version(name) for name in _VERSIONED}
    write_study(optuna_study, RUN, RunRecord(limits.record(), concurrent, masked_url(files), versions, driver))


def record_end(optuna_study: optuna.Study, driver: Owner, reason: str) -> None:
    """Store why a run has ended, unless another driver has begun one since."""
    run = StudyRecord.of(optuna_study).run
    if run is not None and run.driver == driver:
        write_study(optuna_study, RUN, replace(run, ended=reason))


def _check(study: Study, stored: Mapping[str, Any], present: Mapping[str, Any], what: str) -> None:
    """Refuse edits that change what a result means, or that take away what an old trial needs."""
    before, after = _weights(stored), _weights(present)
    apart = tuple(f"backbones.{name}." for name in before.keys() ^ after.keys())  # One more is no change of the others.
    unsafe = [
        f"{name}: {old!r} -> {new!r}"
        for name, old, new in _differences(stored["settings"], present["settings"])
        if not (name == "target.labels" and old is None)  # Their order is in the hashes of the rows.
        and not name.startswith(apart)
    ]
    unsafe += _backbone_edits(before, after)
    for name in ("target rows", "source rows", "test rows"):
        if stored[name] != present[name]:
            unsafe.append(f"{name} are others (hash {stored[name]} -> {present[name]})")
    name = "unlabelled rows"  # These may join a study that has none: trials so far did without.
    if stored.get(name) not in (None, present.get(name)):
        unsafe.append(f"{name} are others (hash {stored[name]} -> {present.get(name)})")
    unsafe += _pool_edits(stored["space"], present["space"], before.keys() - after.keys())
    if unsafe:
        raise InvalidInputError(
            f"study {study.name!r} can't {what} with these edits, since results under one name must be comparable:\n"
            + "".join(f"  {edit}\n" for edit in unsafe)
            + f"undo them, or run the file as another study: promptgraft run {study.path} --new-study NAME"
        )


def _backbone_edits(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    """Name the backbones that are gone, or have other weights."""
    for name, weights in before.items():
        if name and name not in after:
            yield f"backbone {name!r} was removed, but trials were run with it"
        elif after.get(name) != weights:
            what = f"weights of backbone {name!r}" if name else "backbone weights"
            yield f"{what} are others (hash {weights} -> {after.get(name)})"


def _pool_edits(before: Mapping[str, Any], after: Mapping[str, Any], gone: Collection[str]) -> Iterator[str]:
    """Name the templates and verbalizers that are gone, or changed; those of a backbone that is gone aside."""
    for kind in ("template", "verbalizer"):
        for name, old_id in before[kind].items():
            new_id = after[kind].get(name)
            if name.partition(".")[0] in gone:
                continue
            if new_id is None:
                yield f"{kind} {name!r} was removed, but trials were run with it"
            elif new_id != old_id:
                yield f"{kind} {name!r} was changed; give the new one another name"


def _weights(identity: Mapping[str, Any]) -> dict[str, str]:
    """Return the hash of each backbone's weights by its name; that of a single one is empty."""
    weights = identity["backbone weights"]
    return weights if isinstance(weights, dict) else {"": weights}


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """List what differs: the key with its dots, the old and the new value; None where there is none."""
    before, after = dict(flattened(old)), dict(flattened(new))
    names = dict.fromkeys((*before, *after))
    return [(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]


def _named(differences: list[tuple[str, Any, Any]]) -> list[str]:
    edits = []
    for name, old, new in differences:
        if old is None and name.startswith("backbones."):  # Other changes of theirs are refused.
            edits += [f"{name.removesuffix('.path')} added"] if name.endswith(".path") else []
        elif old is None and name.startswith(("space.templates.", "space.verbalizers.")):
            edits.append(f"{name.removeprefix('space.')} added")
        else:
            edits.append(f"{name} {old!r} -> {new!r}")
    return edits

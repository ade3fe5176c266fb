"""Notes for Optuna Dashboard: what a study searches, and what each trial did."""

import textwrap
from collections.abc import Sequence

import optuna
from optuna.storages import RDBStorage
from optuna_dashboard import save_note

from promptgraft.objectives.data import Task
from promptgraft.objectives.measures import UntrainedScore
from promptgraft.search.judging import against_best, headline_of, reach_verdict
from promptgraft.search.sampling import with_pool
from promptgraft.search.storage import StudyRecord, trial_for_note
from promptgraft.search.study import Study
from promptgraft.search.trials import Evaluated, float32_scores, front_table, metric_of
from promptgraft.search.wording import fenced, in_markdown, rounded
from promptgraft.spaces import Candidate, Categorical, Constant, Parameter, Scalar, Template


def save_study_note(optuna_study: optuna.Study, study: Study) -> None:
    """Describe what is searched, and on which data."""
    study = with_pool(study, optuna_study)
    untrained = StudyRecord.of(optuna_study).untrained
    scored = _verdict_note(optuna_study, study) + _front_note(optuna_study) + _finalists_note(optuna_study)
    first = headline_of(optuna_study)
    opening = f"**{first}**\n\n" if first else ""
    save_note(optuna_study, opening + study_note(study) + _untrained_note(study, untrained) + scored)


def save_trial_note(optuna_study: optuna.Study, storage: RDBStorage, trial_id: int, note: str) -> None:
    """Put a note on a trial."""
    save_note(trial_for_note(optuna_study, storage, trial_id), note)


def study_note(study: Study) -> str:
    """Write the study's note, in Markdown."""
    file, space = study.file, study.objective.space
    lines = [
        f"## {study.name}",
        "",
        f"{'Maximum' if study.objective.direction == 'maximize' else 'Minimum'} of validation **{file.metric}** on the "
        f"target{_costs(file.minimize)}.",
        "",
        f"{_backbones(study)}, seed {file.seed}, sampler `{file.sampler.name}`, pruner `{file.pruner.name}`.",
        "",
        "### Data",
        "",
        "| task | file | labels | train | validation | test | dropped |",
        "| --- | --- | --- | ---: | ---: | ---: | --- |",
        _task_row("target", file.target.train, study.target),
    ]
    for name, section in file.all_sources().items():
        lines.append(_task_row(f"source {name}".rstrip(), section.train, study.sources[name]))
    if study.target.unlabelled:
        lines += [f"\n{len(study.target.unlabelled)} unlabelled rows; {study.target.unlabelled_cleaning}."]
    lines += [f"\n**Caution**, {caution}." for caution in study.cautions]
    lines += ["", "### Search space", "", "| parameter | values |", "| --- | --- |"]
    lines += [f"| `{p.name}` | {_values(p)} |" for p in space.parameters]
    bounds = study.constraints.bounds if study.constraints else {}
    lines += [f"| {name.replace('_', ' ')} | at most {bound} |" for name, bound in bounds.items()]
    lines += ["", "### Templates", ""]
    for template in space.templates:
        lines += [f"`{template.id}`{_lineage(template)}", "", *fenced(template.text), ""]
    if space.verbalizers:
        lines += ["### Label words", "", "| verbalizer | label | words |", "| --- | --- | --- |"]
    for verbalizer in space.verbalizers:
        lines += [f"| `{verbalizer.id}` | {label} | {', '.join(ws)} |" for label, ws in verbalizer.words.items()]
    return "\n".join(lines)


def _backbones(study: Study) -> str:
    """Name the backbone, or all of them."""
    found = [
        f"{f'{name} = ' if name else ''}`{own.only_backbone.path}` ({own.only_backbone.family}, "
        f"{study.objective.on(name).space.facts.n_layers} layers)"
        for name, own in study.file.on_each_backbone().items()
    ]
    return f"Backbone{'s' if len(found) > 1 else ''} {'; '.join(found)}"


def _costs(names: Sequence[str]) -> str:
    return f", with least {' and '.join(name.replace('_', ' ') for name in names)}" if names else ""


def _lineage(template: Template) -> str:
    if template.source == "written":
        return ""
    parents = " and ".join(f"`{parent}`" for parent in template.parents)
    return f" ({template.source}{' of ' + parents if parents else ''})"


def _untrained_note(study: Study, untrained: Sequence[UntrainedScore]) -> str:
    """Write what prompts scored before any training, in Markdown; nothing where none was scored."""
    if not untrained:
        return ""
    space = study.objective.space
    names = {t.id: t.name for t in space.templates} | {v.id: v.name for v in space.verbalizers}
    lines = [
        "",
        "",
        "### Prompts before any training, on the target's training rows",
        "",
        "| template | label words | log-likelihood | accuracy | rows |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for e in untrained:
        if e.template in names and e.verbalizer in names:
            scores = f"{rounded(e.score, 3)} | {rounded(e.accuracy, 3)} | {e.rows}"
            lines.append(f"| {names[e.template]} | {names[e.verbalizer]} | {scores} |")
    return "\n".join(lines)


def _verdict_note(optuna_study: optuna.Study, study: Study) -> str:
    """Write which trial has won, in Markdown; nothing before the finalists had their repeats."""
    table = reach_verdict(optuna_study).table()
    if not table.finalists and not table.failed:
        return ""
    lines = ["", "", f"### Finalists, run again on other seeds and splits ({study.file.metric})", ""]
    lines += [
        f"| trial | in the search | reruns | standard error | {table.cost.replace('_', ' ')} | |",
        "| ---: | ---: | --- | ---: | ---: | --- |",
    ]
    for place, entry in enumerate(table.finalists):
        values = ", ".join(rounded(value, 3) for value in entry.values)
        name = f"**{entry.number}, the winner**" if place == 0 else entry.number
        mean = f"{rounded(entry.mean)} ({values}) | {rounded(entry.standard_error)}"
        lines.append(f"| {name} | {rounded(entry.in_search)} | {mean} | {entry.cost:g} | {against_best(entry)} |")
    for lost in table.failed:
        lines.append(f"| {lost.number} | | rerun {lost.repeat} failed: {lost.failure} | | | out |")
    return "\n".join(lines)


def _front_note(optuna_study: optuna.Study) -> str:
    """Write the Pareto front, in Markdown; nothing with a single objective."""
    front = front_table(optuna_study)
    if not front:
        return ""
    names = list(front[0].values)
    lines = ["", "", "### Pareto front: trials that no other one dominates", ""]
    lines += [f"| trial | {' | '.join(names)} |", "| ---: |" + " ---: |" * len(names)]
    for entry in front:
        lines.append(f"| {entry.number} | {' | '.join(f'{value:.6g}' for value in entry.values.values())} |")
    return "\n".join(lines)


def _finalists_note(optuna_study: optuna.Study) -> str:
    """Write what finalists score in float32, in Markdown; nothing if none was scored again."""
    scores = float32_scores(optuna_study)
    if not scores:
        return ""
    values = {trial.number: metric_of(trial) for trial in optuna_study.get_trials(deepcopy=False)}
    lines = ["", "", "### Finalists, scored again in float32", ""]
    lines += [
        "| trial | in the search | in float32 | largest difference of a probability |",
        "| ---: | ---: | ---: | ---: |",
    ]
    for number, score in sorted(scores.items()):
        known = score.max_probability_difference
        difference = "" if known is None else f"{known:.1e}"
        lines.append(f"| {number} | {rounded(values.get(number))} | {rounded(score.value)} | {difference} |")
    return "\n".join(lines)


def trial_note(candidate: Candidate, reports: list[Evaluated], study: Study) -> str:
    """Write a trial's note, in Markdown: a rendered prompt, metrics, confusion, losses."""
    last = reports[-1]
    soft = candidate.soft_prompt
    start = {"deep": "random values", "frame": "zeros"}.get(soft.place, soft.init)
    start = soft.init if soft.init == "source" else start
    what = f"a frame of {soft.length} pixels" if soft.framed else f"{soft.length} soft tokens, {soft.place}"
    place = f"{what}, from {start}" if soft.length else "no soft prompt"
    if soft.parametrization != "direct":
        place += f", through an {soft.parametrization.upper()}"
    place += _demonstrations(candidate, last)
    adapter = candidate.adapter
    if adapter.method != "none":
        place += f", {adapter.method}" + (f" of rank {adapter.rank}" if adapter.method == "lora" else "")
    if candidate.calibration != "none":
        place += f", {candidate.calibration} calibration"
    if candidate.source:
        place += f", source `{candidate.source}`"
    place += "".join(f", {name} {_short(value)}" for name, value in candidate.custom)
    labels = [in_markdown(label) for label in study.target.labels]
    template = next((t.name for t in study.objective.space.templates if t.id == candidate.template), candidate.template)
    lines = [
        "### Prompt",
        "",
        f"Template `{template}`, {place}. A validation row, with its true label in brackets:",
        "",
        *fenced(_wrapped(last.example)),
        "",
        f"### Validation ({'best step ' + str(last.summary.best_step) if last.summary else 'pruned here'})",
        "",
        "| metric | value |",
        "| --- | ---: |",
        *[f"| {name} | {rounded(value)} |" for name, value in last.metrics.items()],
        "",
        *_confusion(labels, last.confusion),
        "### Curve",
        "",
        f"| step | {study.file.metric} | L_s | L_t |",
        "| ---: | ---: | ---: | ---: |",
        *[f"| {r.step} | {rounded(r.value)} | {rounded(r.source_loss)} | {rounded(r.target_loss)} |" for r in reports],
    ]
    if last.summary:
        lines += ["", f"Migration: {last.summary.load_report}."]
    return "\n".join(lines)


def _confusion(labels: Sequence[str], confusion: Sequence[Sequence[int]]) -> list[str]:
    """Write the table of true and predicted labels; nothing in task kinds without one."""
    if not confusion:
        return []
    return [
        "### Confusion (rows: true, columns: predicted)",
        "",
        "| | " + " | ".join(labels) + " |",
        "| --- |" + " ---: |" * len(labels),
        *[f"| **{label}** | " + " | ".join(map(str, row)) + " |" for label, row in zip(labels, confusion, strict=True)],
        "",
    ]


def _demonstrations(candidate: Candidate, last: Evaluated) -> str:
    """Name a candidate's demonstrations, and how many fit if it is known."""
    settings = candidate.demonstrations
    if not settings.count:
        return ""
    order = f", order {settings.order}" if settings.count > 1 else ""
    found = last.summary.demonstrations if last.summary else None
    fit = settings.count if found is None else found
    cut = "" if fit == settings.count else f", of which {fit:g} fit on average"
    return f", {settings.count} demonstrations ({settings.choice}{order}{cut})"


def _task_row(name: str, path: str, task: Task) -> str:
    reasons = str(task.cleaning).partition("dropped: ")[2]
    if task.folds > 1:
        sizes = f"{len(task.labelled)} | {task.folds} folds of them | {len(task.test)}"
    else:
        sizes = f"{len(task.train)} | {len(task.validation)} | {len(task.test)}"
    labels = ", ".join(map(in_markdown, task.labels))
    return f"| {name} | `{path}` ({task.cleaning.read} rows) | {labels} | {sizes} | {reasons} |"


def _values(parameter: Parameter) -> str:
    if isinstance(parameter, Constant):
        return f"{parameter.value} (fixed)"
    if isinstance(parameter, Categorical):
        return ", ".join(map(str, parameter.choices))
    step = f", step {parameter.step:g}" if parameter.step is not None and parameter.step != 1 else ""
    return f"{parameter.low:g} to {parameter.high:g}{', logarithmic' if parameter.log else step}"


def _wrapped(text: str) -> str:
    """Break long lines, which the dashboard would not."""
    return "\n".join(textwrap.fill(line, 100) for line in text.splitlines())


def _short(value: Scalar) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)

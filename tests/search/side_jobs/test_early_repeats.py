"""The best trials earn repeats while the search goes on, for a share of its compute; what they find is what counts."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from optuna.trial import TrialState, create_trial

from promptgraft.objectives.data import Split
from promptgraft.objectives.trial import Objective
from promptgraft.search.judging import reach_verdict
from promptgraft.search.running import Progress, RunOptions, run_study
from promptgraft.search.side_jobs import EarlyRepeats
from promptgraft.search.storage import REPEAT, Outcome, RunFolder, StudyRecord, load_existing
from promptgraft.search.study import load_study
from promptgraft.search.trials import Failed, RepeatJob, SideJobDone
from promptgraft.spaces import Candidate
from tests.support.specs import TEMPLATES, VERBALIZERS
from tests.support.studies import open_ledger

TRIAL_S = 10.0


class Bench:
    """A study of trials that took 10 s each, and the repeats that its workers run."""

    def __init__(self, folder: Path, share: float) -> None:
        self.ledger = open_ledger(folder)
        self.ledger.study.set_user_attr("definition", {"judging": {"finalists": 2, "repeats": 3}})
        self.said: list[str] = []
        self.job: RepeatJob | None = None
        self.repeats = EarlyRepeats(self.ledger, 0, share, lambda name, _: self.said.append(name))

    def finish(self, *values: float) -> None:
        for value in values:
            candidate = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, steps=8 + len(self.ledger.trials))
            attrs = {"candidate": candidate.to_dict(), "best_step": 8, "prompt_tokens": 9, "seconds": TRIAL_S}
            start = datetime.now() - timedelta(seconds=60)
            trial = create_trial(value=value, user_attrs=attrs)
            trial.datetime_start, trial.datetime_complete = start, start + timedelta(seconds=TRIAL_S)
            self.ledger.study.add_trial(trial)
            self.ledger.refresh()

    def begin(self) -> tuple[int, int] | None:
        job = self.repeats.next_job()
        self.job = job or self.job
        return (job.trial, job.repeat) if job else None

    def end(self, outcome: Outcome) -> None:
        assert self.job is not None
        self.repeats.on_result(self.job, SideJobDone(outcome))


def test_they_take_a_share_of_the_compute(tmp_path: Path) -> None:
    bench = Bench(tmp_path, share=0.25)
    bench.finish(0.7, 0.8, 0.9)
    assert bench.begin() is None, "30 s of trials allow for 7.5 s of repeats"
    bench.finish(0.6)
    assert bench.begin() == (2, 1)
    assert bench.repeats.running == 1
    assert bench.begin() is None, "what runs counts, too"
    bench.end(Outcome(0.7, {}, 4.0))
    assert (bench.repeats.running, bench.said) == (0, ["rerun 1 of trial 2"])
    bench.finish(0.5)
    assert bench.begin() is None, "4 s and 10 s are more than a quarter of 50 s"
    bench.finish(0.5)
    assert bench.begin() == (1, 1)


def test_a_repeat_is_begun_once_and_a_lost_one_is_left_to_the_end(tmp_path: Path) -> None:
    bench = Bench(tmp_path, share=1.0)
    bench.finish(0.7, 0.8, 0.9, 0.6)
    assert [bench.begin() for _ in range(3)] == [(2, 1), (1, 1), (0, 1)]
    assert bench.job is not None
    bench.repeats.on_worker_lost(bench.job, "the worker died")
    assert bench.begin() == (3, 1)
    bench.repeats.reset()
    assert bench.repeats.running == 0
    assert bench.begin() == (2, 1), "with its Ray all of them ended"
    assert bench.job is not None
    assert bench.job.step == 8
    assert [template.id for template in bench.job.templates] == [TEMPLATES[0].id]


def test_a_failed_one_is_recorded(tmp_path: Path) -> None:
    bench = Bench(tmp_path, share=1.0)
    bench.finish(0.7, 0.8)
    assert bench.begin() == (1, 1)
    bench.repeats.on_result(bench.job, Failed("out of memory"))
    assert bench.ledger.study.user_attrs[f"{REPEAT}1_1"] == {"failure": "out of memory"}
    assert bench.begin() == (0, 1), "trial 1 is out"


class Listening(Progress):
    """Notes what is said, and which trials end."""

    events: list[str]

    def say(self, line: str) -> None:
        self.events.append(line)

    def ended(self, number: int, state: str, value: float | None, cause: str) -> None:
        self.events.append(f"trial {number} ended")
        super().ended(number, state, value, cause)


def test_a_search_repeats_its_best_trials_as_it_goes(write_study: Callable[..., Path], tmp_path: Path) -> None:
    """With real workers: between trials of the same worker, on whose results they leave no trace."""
    folder = RunFolder(tmp_path / "run")
    judging = {"finalists": 2, "repeats": 2, "controls": []}
    study = load_study(write_study(judging=judging, budget={"trials": 8, "reserve": 0.9}, pruner="none"))
    progress = Listening("tiny", "accuracy", 8)
    progress.events = []
    assert run_study(study, RunOptions(folder, concurrent=1), progress).finished == 8
    first = next(place for place, event in enumerate(progress.events) if event.startswith("rerun 1 of trial"))
    assert "ended" in progress.events[first - 1]
    assert any("ended" in event for event in progress.events[first:]), "all repeats came after the last trial"
    stored = load_existing("tiny", folder.storage_url())
    winner, _ = reach_verdict(stored).finalists
    assert sorted(StudyRecord.of(stored).repeats[winner.number]) == [1, 2]
    fresh = Objective(replace(study.objective, files=None))
    for trial in stored.get_trials():
        assert trial.state == TrialState.COMPLETE
        assert (
            fresh.evaluate(Candidate.from_values(trial.user_attrs["candidate"]), study.file.seed).value == trial.value
        )
    for number, outcomes in StudyRecord.of(stored).repeats.items():
        attrs = stored.get_trials()[number].user_attrs
        for repeat, outcome in outcomes.items():
            other = Objective(replace(study.objective, files=None))
            other.use_split(Split(repeat))
            chosen = Candidate.from_values(attrs["candidate"])
            assert other.evaluate(chosen, study.file.seed + repeat, at=attrs["best_step"]).value == outcome.value

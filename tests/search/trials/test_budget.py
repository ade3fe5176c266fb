"""Limits, forecasts and the disk: from the study's own timestamps and real files."""

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.trial import FrozenTrial, TrialState, create_trial

from promptgraft.objectives.file_store import DiskFullError, FileStore
from promptgraft.search.study import BudgetSection, next_moment
from promptgraft.search.study.schema.units import parse_bytes
from promptgraft.search.trials import Limits, compute_seconds, describe_use, forecast, tidy
from promptgraft.spaces import Candidate, InvalidInputError

NOW = datetime(2026, 11, 24, 19, 0)
T0 = NOW.timestamp()


def trial(start_s: float, seconds: float | None, state: TrialState = TrialState.COMPLETE, **attrs: Any) -> FrozenTrial:
    """A trial that started so many seconds from now, and took so long."""
    found = create_trial(state=state, value=0.5 if state == TrialState.COMPLETE else None, user_attrs=attrs)
    found.number = int(attrs.get("number", 0))
    found.datetime_start = NOW + timedelta(seconds=start_s)
    found.datetime_complete = None if seconds is None else found.datetime_start + timedelta(seconds=seconds)
    return found


TEN = [trial(-200 + 20 * index, 20) for index in range(10)]


def limits(**section: Any) -> Limits:
    gpus = section.pop("gpus", 0)
    return Limits.of(BudgetSection(**({"trials": 100, "reserve": 0.1} | section)), None, None, T0, gpus)


def test_no_trial_starts_that_would_end_in_the_reserve() -> None:
    hour = limits(timeout="1h")
    assert hour.search_ends_at == T0 + 3600 - 360
    assert hour.reached(TEN, T0 + 3200) is None
    reason = hour.reached(TEN, T0 + 3230)
    assert reason == "the time is up: 1h 00m, of which 10% are kept for judging the winner (a trial takes 20s)"
    assert limits(timeout="1h", reserve=0).reached(TEN, T0 + 3230) is None


def test_compute_counts_every_trial() -> None:
    trials = [*TEN, trial(-30, 30, TrialState.FAIL), trial(-50, None, TrialState.RUNNING)]
    assert compute_seconds(trials, T0) == 200 + 30 + 50
    assert limits(compute=400).reached(trials, T0) is None
    assert str(limits(compute=300).reached(trials, T0)).startswith(
        "the compute is used up: 4m 40s of 5m 00s, of which 10%"
    )


def test_gpu_hours_are_the_time_of_all_trials_times_their_gpus() -> None:
    """Ten trials of 20 s with half a GPU each use 100 GPU-seconds; another one needs 10."""
    enough, little = limits(gpu_hours=122.5 / 3600, gpus=0.5), limits(gpu_hours=121.5 / 3600, gpus=0.5)
    assert enough.reached(TEN, T0) is None
    assert little.reached(TEN, T0) == (
        "the GPU-hours are used up: 0.0278 of 0.03375, of which 10% are kept for judging the winner (a trial takes 20s)"
    )
    assert describe_use(TEN, little, None, T0)["gpu_hours"] == "0.0278 of 0.03375"
    assert describe_use(TEN, limits(gpus=2), None, T0)["gpu_hours"] == "0.111"
    ahead = forecast(TEN, limits(gpu_hours=1000 / 3600, gpus=1), 2, T0)
    assert ahead is not None
    assert (ahead.limit, round(ahead.ends_at - T0)) == ("compute", 350)
    both = limits(gpu_hours=1, compute="30m", gpus=4)
    assert (both.total_compute_s, replace(both, compute_s=600).total_compute_s) == (900, 600)


def test_compute_leaves_room_for_what_runs_already() -> None:
    """200 s are used by ten, 80 s by eight that will use as much again; another trial needs 20 s."""
    trials = [*TEN, *[trial(-10, None, TrialState.RUNNING) for _ in range(8)]]
    assert limits(compute=380, reserve=0).reached(trials, T0) is None
    assert "the compute is used up" in str(limits(compute=379, reserve=0).reached(trials, T0))


def test_the_limit_that_is_nearer_is_named_when_nothing_fits() -> None:
    both = limits(timeout="1h", compute=250, reserve=0)
    assert both.nothing_fits(TEN, T0) == (
        "the compute is used up: 3m 20s of 4m 10s (what is left to try takes longer than that)"
    )
    assert str(both.nothing_fits(TEN, T0 + 3560)).startswith("the time is up: 1h 00m (what is left")


def test_an_orphan_found_a_day_later_used_only_what_it_ran() -> None:
    orphan = trial(-86400, 86000, TrialState.FAIL, interrupted=True, ran_s=42.0)
    assert compute_seconds([orphan], T0) == 42
    assert compute_seconds([trial(-100, -1800)], T0) == 0, "the clock was put back meanwhile"


def test_a_deadline_that_has_passed_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"budget.deadline: expected a moment to come, got '2026-01-02T03'"):
        limits(deadline="2026-01-02T03")


def test_use_is_told_in_words() -> None:
    trials = [*TEN, trial(-30, 30, TrialState.FAIL), trial(-9, 9, TrialState.FAIL, interrupted=True)]
    used = describe_use(
        trials, limits(timeout="8h", compute="1h", disk="20GB", max_failure_rate=0.5), 1_200_000_000, T0
    )
    assert used == {
        "trials": "10 of 100",
        "time": "8h 00m left of 8h 00m",
        "compute": "3m 59s of 1h 00m",
        "failures": "9% of at most 50%",
        "disk": "1.2 GB of 20 GB",
    }


@pytest.fixture
def central_europe(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time with the rules of Central Europe: summer time ends on 25 October 2026."""
    with monkeypatch.context() as context:
        context.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("central_europe")
def test_a_time_of_day_is_what_clocks_will_show_then() -> None:
    evening = datetime(2026, 10, 24, 22).timestamp()
    assert next_moment("07:00", evening) == evening + 10 * 3600  # The hour from 2 to 3 is there twice.
    assert next_moment("22:00", evening) == evening + 25 * 3600
    spring = datetime(2026, 3, 28, 22).timestamp()
    assert next_moment("07:00", spring) == spring + 8 * 3600


def test_a_deadline_is_the_next_such_moment() -> None:
    assert next_moment("07:00", T0) == (NOW + timedelta(hours=12)).timestamp()
    assert next_moment("19:30", T0) == (NOW + timedelta(minutes=30)).timestamp()
    assert next_moment("2026-12-24T07:00", T0) == datetime(2026, 12, 24, 7).timestamp()
    assert limits(deadline="07:00").ends_at == T0 + 12 * 3600
    assert limits(deadline="07:00", timeout="1h").ends_at == T0 + 3600
    for wrong in ("tomorrow", "25:00", "7h"):
        with pytest.raises(ValueError, match="expected a time of day such as 07:00"):
            next_moment(wrong, T0)


@pytest.mark.parametrize(
    ("section", "limit", "left_s", "trials"),
    [
        ({"trials": 100}, "trials", 900, 100),
        ({"trials": 100, "timeout": "10m"}, "time", 540, 64),
        ({"trials": 100, "compute": 1000}, "compute", 350, 45),
    ],
)
def test_a_forecast_names_what_ends_the_search(section: dict[str, Any], limit: str, left_s: float, trials: int) -> None:
    found = forecast(TEN, limits(**section), 2, T0)
    assert found is not None
    assert (found.limit, round(found.ends_at - T0), found.trials) == (limit, left_s, pytest.approx(trials, abs=1))


def test_a_forecast_leaves_gaps_and_cut_off_trials_out_and_counts_failures() -> None:
    assert forecast(TEN[:2], limits(), 2, T0) is None
    week_before = [trial(-7 * 86400 + 20 * index, 20) for index in range(10)]
    cut_off = trial(-5000, 4000, TrialState.FAIL, interrupted=True)
    calm = forecast([*week_before, cut_off], limits(), 2, T0)
    assert calm is not None
    assert round(calm.ends_at - T0) == 900
    failing = forecast([*TEN, *[trial(-400, 20, TrialState.FAIL) for _ in range(10)]], limits(), 2, T0)
    assert failing is not None
    assert round(failing.ends_at - T0) == 1800


def weights(files: FileStore, name: str, kib: int) -> None:
    files.write_tensors(name, {"weight": torch.zeros(kib * 256)})


def test_what_can_t_win_is_deleted_and_then_what_can_be_computed_again(tmp_path: Path) -> None:
    files = FileStore(str(tmp_path), min_free_bytes=0)
    for number in range(4):
        weights(files, f"artifacts/trial-{number}/delta.safetensors", 100)
    weights(files, "checkpoints/over-0.safetensors", 100)
    live = Candidate("t", "v")
    weights(files, f"checkpoints/{live.key}-0.safetensors", 100)
    for age, name in enumerate("abc"):
        weights(files, f"stages/{name}.safetensors", 100)
        stamp = time.time() - 100 * age
        os.utime(tmp_path / "stages" / f"{name}.safetensors", (stamp, stamp))
    trials = [trial(-9, 1, number=number) for number in range(3)]
    trials += [trial(-9, None, TrialState.RUNNING, number=3, candidate=live.to_dict())]
    use = tidy(files, trials, {1}, None)
    left = {file.name for file in files.files()}
    assert left == {
        "artifacts/trial-1/delta.safetensors",
        "artifacts/trial-3/delta.safetensors",
        f"checkpoints/{live.key}-0.safetensors",
        *(f"stages/{name}.safetensors" for name in "abc"),
    }
    assert use.full is None
    tidy(files, trials, {1}, 520 * 1024)
    assert {file.name for file in files.files()} == left - {"stages/c.safetensors"}
    use = tidy(files, trials, {1}, 200 * 1024)
    assert "the disk quota is used up" in str(use.full)
    assert {file.name for file in files.files()} == {name for name in left if not name.startswith("stages")}


def test_what_a_killed_worker_left_half_written_is_deleted(tmp_path: Path) -> None:
    files = FileStore(str(tmp_path), min_free_bytes=0)
    old, new = "artifacts/trial-0/delta.safetensors.7.partial", "stages/a.safetensors.8.partial"
    for name in (old, new):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"half")
    two_hours_ago = time.time() - 7200
    os.utime(tmp_path / old, (two_hours_ago, two_hours_ago))
    assert tidy(files, [], (), None).used_bytes == 4
    assert [file.name for file in files.files()] == [new]


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A disk of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_keeps_old_files_whole(small_disk: Path) -> None:
    files = FileStore(str(small_disk), min_free_bytes=0)
    weights(files, "stages/a.safetensors", 6 * 1024)
    with pytest.raises(DiskFullError):
        weights(files, "stages/b.safetensors", 4 * 1024)
    files.try_to_write("stages/a.safetensors", {"weight": torch.ones(4 * 2**18)})
    assert torch.equal(files.read_tensors("stages/a.safetensors")["weight"], torch.zeros(6 * 2**18))
    assert [file.name for file in files.files()] == ["stages/a.safetensors"]
    careful = FileStore(str(small_disk), min_free_bytes=4 * 2**20)
    assert "nearly full" not in str(tidy(careful, [], (), None).full), "the stage made room"
    assert careful.files() == []


def test_sizes_are_read() -> None:
    assert parse_bytes("20GB") == 20 * 10**9
    with pytest.raises(ValueError, match="expected a size such as 500MB, 20GB or 16GiB"):
        parse_bytes("much")

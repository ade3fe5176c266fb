"""Another process rehearses a study as this one does, and Ray is started early for the next session alone."""

from pathlib import Path

import psutil
import pytest
import ray

from promptgraft.search.running.ray_session import EARLY_RAY, LocalRay, prepare_environment, ray_session
from promptgraft.search.study import Finding, RehearsalJob, StudyFile, load_study, rehearse
from promptgraft.search.study.yaml_lines import StudyFileError
from promptgraft.search.workers import RehearsalProcess
from tests.support.models import TinyModels
from tests.support.studies import prompts, write_study_file

SOUND = {**prompts(), "frozen_layers": [0, 1], "steps": [1]}
UNSOUND = {**SOUND, "templates": {"long": "the film was " * 40 + "{{ text }} {{ label }}"}}  # It leaves no room.


def test_another_process_finds_what_this_one_does(tmp_path: Path, tiny_models: TinyModels) -> None:
    asked: list[RehearsalJob] = []
    process = RehearsalProcess()

    def elsewhere(file: StudyFile, job: RehearsalJob) -> list[Finding]:
        asked.append(job)
        found = process.rehearse(job)
        assert found is not None
        return found

    backbone = {"path": str(tiny_models["encoder"]), "family": "encoder", "max_tokens": 32}
    try:
        path = write_study_file(tmp_path / "sound.yaml", backbone, space=SOUND, source=None)
        here, there = load_study(path, rehearsed=True), load_study(path, rehearsed=True, rehearse=elsewhere)
        assert there.objective == here.objective
        path = write_study_file(tmp_path / "unsound.yaml", backbone, space=UNSOUND, source=None)
        with pytest.raises(StudyFileError) as found_here:
            load_study(path, rehearsed=True)
        with pytest.raises(StudyFileError, match=r"space\.templates\.long") as found_there:
            load_study(path, rehearsed=True, rehearse=elsewhere)
        assert str(found_there.value) == str(found_here.value)
        assert process.rehearse(asked[1]) == list(rehearse(asked[1])) != []
        pid = process._process.pid
    finally:
        process.close()
    assert not psutil.pid_exists(pid)
    assert process.rehearse(asked[0]) is None, "it has ended, and so it is done here"


def test_what_is_started_early_is_the_next_session_s_alone() -> None:
    prepare_environment(None)
    EARLY_RAY.start(LocalRay(1))
    EARLY_RAY.start(LocalRay(1))
    node = ray.get_runtime_context().get_node_id()
    with ray_session(None, LocalRay(1)) as session:
        assert ray.get_runtime_context().get_node_id() == node
        assert session.is_alive
        EARLY_RAY.stop()  # It is the session's now.
        assert ray.is_initialized()
    assert not ray.is_initialized()
    assert not EARLY_RAY.take(LocalRay(1))


def test_one_with_other_cpus_is_replaced() -> None:
    prepare_environment(None)
    EARLY_RAY.start(LocalRay(1))
    node = ray.get_runtime_context().get_node_id()
    with ray_session(None, LocalRay(2)) as session:
        assert ray.get_runtime_context().get_node_id() != node
        assert session.resources()["CPU"] == 2
    assert not ray.is_initialized()

"""Who is alive: two containers with one host name, and clocks that are set while a driver runs."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import cache

import pytest

from promptgraft.search.storage import Owner, is_alive, new_owner

# Says who it is, then answers who of those that it is asked for is alive.
_DRIVER = """
import json, sys
from promptgraft.search.storage import Owner, is_alive, new_owner
from dataclasses import asdict
print(json.dumps(asdict(new_owner())), flush=True)
for line in sys.stdin:
    print(json.dumps(is_alive(Owner(**json.loads(line)))), flush=True)
"""
NAMESPACES = ["--pid", "--fork", "--mount-proc", "--kill-child"]
Start = Callable[..., "Driver"]


@cache
def _can_unshare(*options: str) -> bool:
    return subprocess.run(["unshare", *options, "true"], capture_output=True, check=False).returncode == 0


class Driver:
    """A driver's process, in namespaces of its own if that is asked for."""

    def __init__(self, *options: str) -> None:
        if options and not _can_unshare(*options):
            pytest.skip(f"unshare {' '.join(options)} is not allowed here")
        command = [*(["unshare", *options] if options else []), sys.executable, "-c", _DRIVER]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.owner = Owner(**self._read())

    def says(self, owner: Owner) -> bool | None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asdict(owner)) + "\n")
        self.process.stdin.flush()
        found: bool | None = self._read()
        return found

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _read(self) -> object:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())


@pytest.fixture
def start() -> Iterator[Start]:
    """Start drivers that end with the test."""
    started: list[Driver] = []

    def begin(*options: str) -> Driver:
        started.append(Driver(*options))
        return started[-1]

    yield begin
    for driver in started:
        driver.end()


def test_a_process_is_alive_until_it_ends(start: Start) -> None:
    driver = start()
    assert is_alive(driver.owner) is True
    assert driver.says(new_owner()) is True
    assert is_alive(replace(driver.owner, ticks=driver.owner.ticks - 1)) is False, "its id was given to another one"
    driver.process.kill()
    os.waitid(os.P_PID, driver.process.pid, os.WEXITED | os.WNOWAIT)
    assert is_alive(driver.owner) is False, "a zombie"
    driver.end()
    assert is_alive(driver.owner) is False


def test_containers_with_one_host_name_leave_it_to_the_heartbeat(start: Start) -> None:
    """Their processes have other ids in each: neither says that another one's is dead, or takes a stranger for it."""
    one, two = start(*NAMESPACES), start(*NAMESPACES)
    assert one.owner.host == two.owner.host
    assert one.owner.pid == two.owner.pid, "each has a process of this id"
    for driver, other in ((one, two.owner), (two, one.owner), (one, new_owner())):
        assert driver.says(other) is None
    assert is_alive(one.owner) is None
    assert one.says(one.owner) is True
    assert one.says(replace(one.owner, pid=4_000_000)) is False, "within a container, processes are looked for"


def test_a_namespace_that_sees_other_processes_leaves_it_to_the_heartbeat(start: Start) -> None:
    """With the /proc of another namespace, an id there is another process here."""
    driver = start("--pid", "--fork", "--kill-child")
    assert driver.owner.machine == ""
    assert driver.says(driver.owner) is None


def test_a_clock_of_its_own_leaves_it_to_the_heartbeat(start: Start) -> None:
    """In another time namespace, the same process has started at other ticks."""
    driver = start("--time", "--boottime", "86400", "--fork", "--kill-child")
    assert is_alive(driver.owner) is None
    assert driver.says(new_owner()) is None
    assert driver.says(driver.owner) is True


def test_the_system_clock_has_no_say(monkeypatch: pytest.MonkeyPatch, start: Start) -> None:
    """It is set while a driver runs: what is asked of the process is the same before and after."""
    driver, before = start(), new_owner()
    monkeypatch.setattr("time.time", lambda: before.started - 86400)
    after = new_owner()
    assert after.started < before.started - 86000
    assert (after.machine, after.ticks, after.pid) == (before.machine, before.ticks, before.pid)
    assert is_alive(before) is is_alive(driver.owner) is True


def test_a_record_of_an_older_version_leaves_it_to_the_heartbeat() -> None:
    own = new_owner()
    assert is_alive(Owner("d", own.host, own.pid, own.started)) is None
    assert is_alive(None) is False

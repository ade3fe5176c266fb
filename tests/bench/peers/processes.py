"""Run a command, and measure all of its processes."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import psutil

EVERY_S = 0.2
Readings = dict[psutil.Process, tuple[float, int]]


def _read(root: psutil.Process, readings: Readings) -> list[int]:
    """Note processor time and memory of a process and all below it; return the memory of those that live."""
    alive = []
    try:
        processes = [root, *root.children(recursive=True)]
    except psutil.Error:
        return alive
    for process in processes:
        try:
            with process.oneshot():
                times, memory = process.cpu_times(), process.memory_info().rss
        except psutil.Error:
            continue
        # Its own time only: its children are read themselves.
        readings[process] = (times.user + times.system, memory)
        alive.append(memory)
    return alive


def watch(command: Sequence[str], **options: Any) -> tuple[int, dict[str, float]]:
    """Run a command with Popen's options; return its exit code, and time and memory of its whole process tree.

    A process's last reading stands for it, so that each loses at most `EVERY_S` of its time. What the system says at
    the end, of the command and the children that it waited for, is exact but knows no daemons: the larger one counts.
    """
    started = time.perf_counter()
    child = subprocess.Popen(command, **options)
    root, readings = psutil.Process(child.pid), Readings()
    largest = together = 0
    try:
        while True:
            ended, status, usage = os.wait4(child.pid, os.WNOHANG)
            if ended:
                break
            memory = _read(root, readings)
            largest, together = max([largest, *memory]), max(together, sum(memory))
            time.sleep(EVERY_S)
        wall = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)  # It was waited for behind Popen's back.
    finally:
        _end_left(readings)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    cpu = max(sum(reading[0] for reading in readings.values()), usage.ru_utime + usage.ru_stime)
    return child.returncode, {
        "run_cpu_s": cpu,
        "run_wall_s": wall,
        "max_rss_bytes": max(largest, peak),
        "sum_rss_bytes": max(together, peak),
        "processes": len(readings),
    }


def _end_left(readings: Readings) -> None:
    """End what the command left behind; psutil compares start times, so that no reused id is hit."""
    left = [process for process in readings if process.is_running()]
    for process in left:
        try:
            process.terminate()
        except psutil.Error:
            continue
    for process in psutil.wait_procs(left, timeout=5)[1]:
        try:
            process.kill()
        except psutil.Error:
            continue

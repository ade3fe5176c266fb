"""How the cost of a trial grows: with trials, with templates, and with source rows.

python -m tests.bench.growth [--out runs/growth.json] [--plot runs/growth.png]

Trials: a whole search on a small model, two trials at a time (`tests.bench.soak`). Templates and source rows: the same
candidates of MiniLM, drawn once from `replay_minilm.yaml`, one after another in a fresh process with one thread and
one store; only their templates, or the rows of the source, differ from point to point.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from tests.bench.replay import ONE_THREAD, QUIET, ROOT

STUDY = Path(__file__).with_name("replay_minilm.yaml")
TEMPLATES, SOURCE_ROWS = (4, 16, 64), (1000, 3000, 10000)
OPENINGS = ("", "Review: ", "A customer wrote: ", "I read this: ", "Opinion: ", "From the shop: ", "Note: ", "> ")
CLOSINGS = ("", "\nSentiment:", " It was", " All in all,", "\nVerdict:", " In short:", "\nMood:", " So it is")


def templates(count: int) -> list[str]:
    """Combine openings and closings; the few are among the many."""
    pairs = list(product(OPENINGS, CLOSINGS))
    random.Random(0).shuffle(pairs)
    return [f"{opening}{{{{ text }}}}{closing} {{{{ label }}}}" for opening, closing in pairs[:count]]


def point(n_templates: int, source_rows: int, candidates: int) -> dict[str, Any]:
    """Evaluate the candidates in this process."""
    import torch

    from promptgraft.objectives.runtime import quiet_transformers
    from promptgraft.objectives.trial import Objective
    from promptgraft.search.study import load_study
    from promptgraft.spaces import Template
    from tests.bench.replay_ours import draw

    torch.set_num_threads(1)
    quiet_transformers()
    spec = load_study(STUDY).objective
    pool = tuple(Template(f"t{number}", text) for number, text in enumerate(templates(n_templates)))
    drawn = draw(spec, candidates, 0)
    assert spec.source is not None
    source = replace(spec.source, train_rows=source_rows)
    started = time.process_time()
    seconds = []
    with tempfile.TemporaryDirectory() as files:
        space = replace(spec.space, templates=pool)
        objective = Objective(replace(spec, space=space, source=source, files=files))
        start_s = time.process_time() - started
        chooser = random.Random(0)
        for candidate in drawn:
            template = pool[int(chooser.random() * n_templates)]
            started = time.process_time()
            objective.evaluate(replace(candidate, template=template.id), spec.split_seed)
            seconds.append(time.process_time() - started)
        stored = sum(path.stat().st_size for path in Path(files).rglob("*") if path.is_file())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "templates": n_templates,
        "source_rows": source_rows,
        "start_cpu_s": start_s,
        "cpu_s": sum(seconds) / len(seconds),
        "peak_mib": peak / 2**20,
        "stored_mib": stored / 2**20,
    }


def in_process(n_templates: int, source_rows: int, candidates: int) -> dict[str, Any]:
    """Measure a point in a process of its own."""
    options = ["--point", str(n_templates), str(source_rows), "--candidates", str(candidates)]
    environment = dict(os.environ) | ONE_THREAD | QUIET
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.growth", *options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-4000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(found), flush=True)
    return found


def draw_plot(content: dict[str, Any], path: Path) -> None:
    """Draw processor seconds a trial and memory, for each of the three ways to grow."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6), layout="constrained")
    above, below = figure.subplots(2, 3)
    trials = content["trials"]
    steps = [(b["cpu_s"] - a["cpu_s"]) / (b["trials"] - a["trials"]) for a, b in pairwise(trials)]
    above[0].plot([p["trials"] for p in trials[1:]], steps, "o-")
    below[0].plot([p["trials"] for p in trials], [p["driver_mib"] for p in trials], "o-", label="driver")
    below[0].plot(
        [p["trials"] for p in trials],
        [max(p["workers_mib"], default=float("nan")) for p in trials],
        "s-",
        label="larger worker",
    )
    for column, name in ((1, "templates"), (2, "source_rows")):
        points = content[name]
        above[column].plot([p[name] for p in points], [p["cpu_s"] for p in points], "o-")
        below[column].plot([p[name] for p in points], [p["peak_mib"] for p in points], "o-", label="peak memory")
        below[column].plot([p[name] for p in points], [p["stored_mib"] for p in points], "s-", label="store, on disk")
    titles = ("trials (small model, whole search)", "templates (MiniLM)", "source rows (MiniLM)")
    for axes, title in zip(above, titles, strict=True):
        axes.set_title(title)
    for axes, title in zip(below, titles, strict=True):
        axes.set_xlabel(title.split(" (")[0])
        axes.legend()
    above[0].set_ylabel("CPU-s a trial")
    below[0].set_ylabel("MiB")
    for axes in (*above, *below):
        axes.set_xscale("log")
        places = sorted({x for line in axes.lines for x in line.get_xdata()})
        axes.set_xticks(places, [f"{x:g}" for x in places])
        axes.minorticks_off()
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "growth.json")
    parser.add_argument("--plot", type=Path, default=ROOT / "runs" / "growth.png")
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--point", type=int, nargs=2, metavar=("TEMPLATES", "SOURCE_ROWS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.point:
        n_templates, source_rows = arguments.point
        print(json.dumps(point(n_templates, source_rows, arguments.candidates)))
        return
    from tests.bench.soak import soak

    content: dict[str, Any] = {"candidates": arguments.candidates, "trials": soak(arguments.trials)}
    content["templates"] = [in_process(count, SOURCE_ROWS[0], arguments.candidates) for count in TEMPLATES]
    content["source_rows"] = [
        content["templates"][0] if rows == SOURCE_ROWS[0] else in_process(TEMPLATES[0], rows, arguments.candidates)
        for rows in SOURCE_ROWS
    ]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(content, indent=1))
    draw_plot(content, arguments.plot)


if __name__ == "__main__":
    main()

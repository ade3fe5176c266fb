"""How fast is Optuna Dashboard at 2,000 trials, with all that a study gives it, and without? In a real browser.

pip install playwright; python -m tests.bench.dashboard [--study demo] [--trials 2000] --out FOLDER

The trials of a real study are copied, over and over, with their attributes, curves, notes and tables, their values
moved a little; the `bare` study has their parameters and values alone, as any of Optuna's has. Median seconds from the
request until the page shows what it is for, and screenshots. Needs Chromium.
"""

import argparse
import json
import random
import shutil
import statistics
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, create_trial
from optuna_dashboard import save_note
from optuna_dashboard._note import get_note_from_system_attrs, save_note_with_version
from playwright.sync_api import Page, sync_playwright

from promptgraft.search.reporting import save_plots
from promptgraft.search.reporting.dashboard_tables import NOTES
from promptgraft.search.storage import StudyReference, open_storage
from tests.bench.serving import server

ROUNDS, TIMEOUT_MS = 3, 60_000
# Page -> where it is, and what it shows once it is there.
PAGES = {
    "studies": ("/dashboard", "a[href*='studies/1']"),
    "study": ("/dashboard/studies/1", ".scatterlayer .points path"),
    "analytics": ("/dashboard/studies/1/analytics", ".js-plotly-plot .trace"),
    "trials": ("/dashboard/studies/1/trials", "text=Trial 0"),
    "note": ("/dashboard/studies/1/note", "text=accuracy"),
}


def copied(trial: FrozenTrial, seconds: float, chance: random.Random, *, bare: bool) -> FrozenTrial:
    """Return a trial as it was, with another value; without anything of ours if `bare`."""
    moved = chance.gauss(0, 0.02)
    steps = {step: value + moved for step, value in trial.intermediate_values.items()}
    value = None if trial.value is None else trial.value + moved
    given: dict[str, Any] = {"params": trial.params, "distributions": trial.distributions}
    if not bare:
        given |= {"user_attrs": trial.user_attrs | {"seconds": seconds}, "system_attrs": trial.system_attrs}
    return create_trial(state=trial.state, value=value, intermediate_values=steps, **given)


def write_study(reference: StudyReference, folder: Path, trials: int, *, bare: bool) -> None:
    """Write a study of so many trials, by copying those of another."""
    source = reference.load()
    metric = (source.metric_names or ["value"])[0]
    url = f"sqlite:///{folder / 'study.db'}"
    shutil.copytree(reference.folder.path / "dashboard", folder / "dashboard")
    stored = optuna.create_study(study_name=folder.name, storage=open_storage(url), direction=source.direction)
    stored.set_metric_names([metric])
    finished, chance = [trial for trial in source.trials if trial.state.is_finished()], random.Random(0)
    attrs = source._storage.get_study_system_attrs(source._study_id)
    own = [finished[number % len(finished)] for number in range(trials)]
    seconds = [trial.user_attrs.get("seconds", 1.0) * chance.lognormvariate(0, 0.2) for trial in own]
    stored.add_trials([copied(*entry, chance, bare=bare) for entry in zip(own, seconds, strict=True)])
    if not bare:
        for name, value in source.user_attrs.items():
            stored.set_user_attr(name, value)
        save_note(stored, get_note_from_system_attrs(attrs, None)["body"])
        for trial, old in zip(stored.get_trials(deepcopy=False)[:NOTES], own[:NOTES], strict=True):
            body = get_note_from_system_attrs(attrs, old._trial_id)["body"]
            save_note_with_version(stored._storage, stored._study_id, trial._trial_id, 1, body)
        save_plots(stored, stored.get_trials(deepcopy=False))


def served(reference: StudyReference) -> AbstractContextManager[str]:
    """Run `promptgraft dashboard`; yields its URL."""
    code = "from promptgraft.search.cli.studies import app; app()"
    options = ["--storage", reference.storage_url, "--workdir", str(reference.folder.path)]
    command = [sys.executable, "-c", code, "dashboard", reference.name, *options]
    return server(lambda port: [*command, "--port", str(port)])


def look(page: Page, url: str, shows: str, path: Path | None) -> float:
    """Open a page; return the seconds until it shows something, and take its picture."""
    page.goto("about:blank")
    start = time.perf_counter()
    page.goto(url, wait_until="commit")
    page.locator(shows).first.wait_for(timeout=TIMEOUT_MS)
    seconds = time.perf_counter() - start
    if path is not None:
        page.wait_for_timeout(3000)
        page.screenshot(path=path)
    return seconds


def main() -> None:
    """Write both studies, look at them, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", default="demo")
    parser.add_argument("--storage")
    parser.add_argument("--workdir")
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    reference = StudyReference.resolve(options.study, options.storage, options.workdir)
    found: dict[str, list[float]] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for kind in ("fed", "bare"):
            folder = options.out / kind
            if not folder.exists():
                folder.mkdir(parents=True)
                write_study(reference, folder, options.trials, bare=kind == "bare")
            own = StudyReference.resolve(kind, f"sqlite:///{folder / 'study.db'}", str(folder))
            with served(own) as url:
                for number in range(ROUNDS):
                    for name, (where, shows) in PAGES.items():
                        if (kind, name) == ("bare", "note"):
                            continue  # It has none.
                        page = browser.new_page(viewport={"width": 1280, "height": 1600})
                        picture = options.out / f"{kind}-{name}.png" if number == 0 else None
                        seconds = look(page, url + where, shows, picture)
                        found.setdefault(f"{kind}, {name}", []).append(seconds)
                        page.close()
                        print(kind, name, f"{seconds:.2f} s", flush=True)
        browser.close()
    table = {name: round(statistics.median(seconds), 2) for name, seconds in found.items()}
    print(json.dumps(table, indent=1))
    (options.out / "seconds.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()

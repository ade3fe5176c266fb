"""How lucky is the best validation score, and do the reported intervals hold? Searches replayed on a table of repeats.

python -m tests.bench.coverage FOLDER [--searches 200] [--out F.json]
python -m tests.bench.coverage --candidates 100 [--spread 0.05] [--searches 200] [--out F.json]

FOLDER is that of `tests.bench.repeats`. Each search draws 24 of the candidates, a split, and 64 validation rows of the
1,400 that the split doesn't train on; ranks the candidates there; lets the best race as `promptgraft run` does, on four
other splits at most; repeats the winner on fresh ones; and opens 100 sealed rows for it, as the first split trained it.
The rows that are left say what it really scores. Compared: the naive best score, the race, the fresh repeats, the
sealed rows. Then, what ways of choosing lose against the best candidate: one seed, fixed repeats, the race; and what
the cheapest of the tie set saves.

The real candidates are nearly all as good as each other. So ways of choosing are compared on a table that is made up,
too, whose candidates differ by more than their noise.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm
from scipy.stats import t as student

from promptgraft.search.judging import Finalist, score_interval
from promptgraft.search.judging.intervals import Logits
from promptgraft.search.judging.race import Race, compare_finalists, plan_race
from tests.bench.repeats import Table

CANDIDATES, VALIDATION_ROWS, SEALED_ROWS, RACE = 24, 64, 100, 4
LEVEL = 0.05


class Search:
    """One search on a table.

    Args:
        table: The table.
        random: Draws candidates, splits and rows.
        tried: How many candidates it tries.
    """

    def __init__(self, table: Table, random: np.random.Generator, tried: int = CANDIDATES) -> None:
        self.right, losses = table.right(), table.losses()
        candidates, repeats, rows = self.right.shape
        self.table = table
        self.candidates = random.choice(candidates, min(tried, candidates), replace=False)
        self.split, *self.others = random.permutation(repeats)
        shuffled = [random.permutation(rows) for _ in range(repeats)]
        drawn = [own[:VALIDATION_ROWS] for own in shuffled]
        self.sealed, self.left = np.split(shuffled[self.split][VALIDATION_ROWS:], [SEALED_ROWS])
        self.values = np.array([[self.right[c, r, drawn[r]].mean() for r in range(repeats)] for c in range(candidates)])
        self.losses = np.array([[losses[c, r, drawn[r]].mean() for r in range(repeats)] for c in range(candidates)])
        self.repeats = 0

    def ranked(self, tried: int | None = None) -> list[int]:
        """Return the candidates, or the first few tried, best first by what the search measured."""
        own = self.candidates[:tried]
        return sorted(own, key=lambda c: (-self.values[c, self.split], self.losses[c, self.split]))

    def repeated(self, finalists: int, repeats: int, costs: Sequence[float]) -> list[Finalist]:
        """Judge the best of the search by as many repeats of each, the winner first."""
        chosen = self.ranked()[:finalists]
        self.repeats = finalists * repeats
        values = {c: [float(self.values[c, split]) for split in self.others[:repeats]] for c in chosen}
        return compare_finalists(values, {c: float(costs[c]) for c in chosen}, maximize=True, level=LEVEL)

    def raced(self, places: int, repeats: int, costs: Sequence[float], share: float = 0.0) -> list[Finalist]:
        """Judge by a race as `promptgraft run` does, the winner first.

        Args:
            places: Number of finalists.
            repeats: Of each, at most.
            costs: Of the candidates.
            share: Repeats while the search goes on, as a share of its trials.
        """
        had: dict[int, list[float]] = {}
        for tried in range(1, len(self.candidates) + 1):
            while self.repeats + 1 <= share * tried and self._repeat(tried, had, places, repeats):
                pass
        while self._repeat(len(self.candidates), had, places, repeats):
            pass
        judged = self._race(len(self.candidates), had, places).finalists
        values = {c: had[c] for c in judged}
        return compare_finalists(values, {c: float(costs[c]) for c in judged}, maximize=True, level=LEVEL)

    def _repeat(self, tried: int, had: dict[int, list[float]], places: int, repeats: int) -> bool:
        """Run the most urgent repeat after so many trials; return whether there was one."""
        found = self._race(tried, had, places)
        left = found.waiting or [c for c in found.finalists if len(had[c]) < repeats]
        if left:
            chosen = min(left, key=lambda c: len(had.get(c, ())))
            own = had.setdefault(chosen, [])
            own.append(float(self.values[chosen, self.others[len(own)]]))
            self.repeats += 1
        return bool(left)

    def _race(self, tried: int, had: dict[int, list[float]], places: int) -> Race:
        in_search = {c: float(self.values[c, self.split]) for c in self.ranked(tried)}
        return plan_race(in_search, had, places, maximize=True, level=LEVEL)

    def real(self, candidate: int) -> float:
        """Return a candidate's mean accuracy over all splits and rows."""
        return float(self.right[candidate].mean())

    def of_model(self, candidate: int) -> float:
        """Return the accuracy of the model that the search's own split trained, on the rows that are left."""
        return float(self.right[candidate, self.split, self.left].mean())


def claims(table: Table, random: np.random.Generator, searches: int) -> dict[str, Any]:
    """Compare what is claimed of the winner with what it really scores."""
    rows = []
    for _ in range(searches):
        search = Search(table, random)
        best = search.ranked()[0]
        raced = search.raced(3, RACE, table.prompt_tokens)[0]
        winner = raced.number
        fresh = search.values[winner, search.others[RACE:]]
        half = student.ppf(1 - LEVEL / 2, len(fresh) - 1) * fresh.std(ddof=1) / len(fresh) ** 0.5
        own = table.labels[search.split][search.sealed]

        def measure(found: Logits, kept: npt.NDArray[np.int64], own: npt.NDArray[np.int64] = own) -> float:
            return float((found.argmax(1) == own[kept]).mean())

        logits = table.logits[winner, search.split][search.sealed]
        sealed = score_interval(logits, measure, "accuracy", LEVEL)
        model, mean = search.of_model(winner), search.real(winner)
        rows.append(
            {
                "optimism of the best of the search": search.values[best, search.split] - search.of_model(best),
                "optimism of the winner in the search": search.values[winner, search.split] - model,
                "optimism of its race": raced.mean - mean,
                "optimism of its fresh repeats": fresh.mean() - mean,
                "optimism of the sealed rows": sealed.value - model,
                "interval of the fresh repeats holds its mean": abs(fresh.mean() - mean) <= half,
                "interval of the sealed rows holds its score": sealed.low <= model <= sealed.high,
                "width of that of the fresh repeats": 2 * half,
                "width of that of the sealed rows": sealed.high - sealed.low,
            }
        )
    return {name: summary([float(row[name]) for row in rows]) for name in rows[0]}


def choices(table: Table, random: np.random.Generator, searches: int) -> dict[str, Any]:
    """Compare ways of choosing at equal compute: as many runs, of trials of the search and of repeats together.

    With one seed a search tries all candidates of the table; otherwise as many fewer as repeats are planned, of which a
    race may save some. Regret is to the best of the whole table.
    """
    tokens, latency = table.prompt_tokens, table.latency_ms
    runs = len(table.uses_source)
    ways: dict[str, tuple[int, Callable[[Search], int]]] = {
        "one seed, more trials": (0, lambda search: search.ranked()[0]),
        "fixed: 3 finalists, 5 repeats": (15, lambda search: _best(search.repeated(3, 5, tokens))),
        "fixed: 5 finalists, 3 repeats": (15, lambda search: _best(search.repeated(5, 3, tokens))),
        "fixed: 2 finalists, 3 repeats": (6, lambda search: _best(search.repeated(2, 3, tokens))),
        "fixed: 3 finalists, 6 repeats": (18, lambda search: _best(search.repeated(3, 6, tokens))),
        "race: 6, then 3 up to 4": (15, lambda search: _best(search.raced(3, 4, tokens))),
        "race: 6, then 3 up to 5": (18, lambda search: _best(search.raced(3, 5, tokens))),
        "race: 6, then 3 up to 5, some early": (18, lambda search: _best(search.raced(3, 5, tokens, 0.3))),
        "race: 6, then 3 up to 4, 32 trials": (0, lambda search: _best(search.raced(3, 4, tokens))),
        "race, fewest tokens of the tie set": (18, lambda search: search.raced(3, 5, tokens)[0].number),
        "race, fastest of the tie set": (18, lambda search: search.raced(3, 5, latency)[0].number),
    }
    found: dict[str, dict[str, list[float]]] = {}
    best = float(table.right().mean((1, 2)).max())
    for seed in random.integers(0, 2**32, searches):
        for name, (repeats, way) in ways.items():
            search = Search(table, np.random.default_rng(seed), runs - repeats)
            chosen = way(search)
            figures = {
                "regret": best - search.real(chosen),
                "runs": search.repeats + len(search.candidates),
                "prompt_tokens": tokens[chosen],
                "latency_ms": latency[chosen],
            }
            for figure, value in figures.items():
                found.setdefault(name, {}).setdefault(figure, []).append(value)
    return {name: {figure: summary(values) for figure, values in own.items()} for name, own in found.items()}


def made_up(random: np.random.Generator, candidates: int, spread: float, rows: int = 1400, repeats: int = 10) -> Table:
    """Make a table up whose candidates' real accuracies spread by so much; half of a row's luck is that of all."""
    accuracy = np.clip(0.74 + spread * random.standard_normal(candidates), 0.02, 0.98)
    luck = random.standard_normal((1, repeats, rows)) + random.standard_normal((candidates, repeats, rows))
    right = luck < 2**0.5 * norm.ppf(accuracy)[:, None, None]
    tokens = [int(count) for count in random.integers(1, 40, candidates)]
    figures = (tokens, [float(count) for count in tokens], [1.0] * candidates)
    labels = np.zeros((repeats, rows), dtype=np.int64)
    return Table([True] * candidates, *figures, labels, np.stack([right, ~right], -1).astype(np.float32), 1000)


def _best(judged: list[Finalist]) -> int:
    return max(judged, key=lambda entry: entry.mean).number


def summary(values: list[float]) -> dict[str, float]:
    """Return mean and standard error."""
    own: npt.NDArray[np.float64] = np.array(values)
    return {"mean": round(float(own.mean()), 4), "standard_error": round(float(own.std(ddof=1) / len(own) ** 0.5), 4)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, nargs="?", help="made up if left out")
    parser.add_argument("--candidates", type=int, default=32, help="of a table that is made up")
    parser.add_argument("--spread", type=float, default=0.05, help="standard deviation of their real accuracies")
    parser.add_argument("--searches", type=int, default=200)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    real = arguments.folder is not None
    table = Table.read(arguments.folder) if real else made_up(random, arguments.candidates, arguments.spread)
    found = {
        "accuracies": summary(list(table.right().mean((1, 2)))),
        "claims": claims(table, random, arguments.searches) if real else {},
        "choices": choices(table, random, arguments.searches),
    }
    print(json.dumps(found, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

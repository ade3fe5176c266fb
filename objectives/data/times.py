"""Reading a column of times: numbers, or dates in one format that the whole column has; nothing is guessed by cell."""

import math
import re
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from promptgraft.spaces import InvalidInputError

_MISSING = ("", "nan", "nat")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_CLOCK = re.compile(
    r"(?P<date>.*?)[ T,]+(?P<hour>\d{1,2}):(?P<minute>\d{2})(:(?P<second>\d{2}([.,]\d+)?))?"
    r"( ?(?P<half>[AP])\.?M\.?)?( ?(?P<zone>Z|UTC|GMT|[+-]\d{2}:?\d{2}))?",
    re.IGNORECASE,
)
_MONTHS = ("%b", "%B")
# With numbers alone, the order of day, month and year is found by the cells that fit one order only.
_FORMATS = (
    *(f"%Y{mark}%m{mark}%d" for mark in ("-", "/", ".", "")),
    "%Y-%m",
    *(f"{a}{mark}{b}{mark}{year}" for mark in "/.-" for a, b in (("%d", "%m"), ("%m", "%d")) for year in ("%Y", "%y")),
    *(f"%y{mark}%m{mark}%d" for mark in "/.-"),
    *(f"%d{mark}{month}{mark}{year}" for mark in " -/" for month in _MONTHS for year in ("%Y", "%y")),
    *(f"%d. {month} %Y" for month in _MONTHS),
    *(f"{month} %d{comma} %Y" for month in _MONTHS for comma in ("", ",")),
    *(f"{day}, %d {month} %Y" for day in ("%a", "%A") for month in _MONTHS),
    "%a %b %d %H:%M:%S %z %Y",
)
_SOLID = ("%d%m%Y", "%m%d%Y")
# From here on numbers are probably seconds since 1970, or parts of them.
_SECONDS = 1e8
_REMEDY = "write dates as 2024-12-31 or 2024-12-31T23:59:59+00:00, or numbers"


def read_times(cells: Sequence[str | None]) -> list[float]:
    """Read numbers or dates.

    Args:
        cells: The column; None, or a cell that is empty, "nan" or "NaT", where there is no time.

    Returns:
        Numbers as they are, dates in seconds since 1970 (of UTC where no time zone is given); nan for no time.

    Raises:
        InvalidInputError: If there is no format that all cells have, or several that give other times.
    """
    texts = [(cell or "").strip() for cell in cells]
    places = [place for place, text in enumerate(texts) if text.lower() not in _MISSING]
    known = [texts[place] for place in places]
    found = np.full(len(texts), math.nan)
    if known:
        _refuse_words_among_numbers(known)
        found[places] = _numbers(known) if all(map(_NUMBER.fullmatch, known)) else _dates(known)
    values: list[float] = found.tolist()
    return values


def _refuse_words_among_numbers(texts: Sequence[str]) -> None:
    odd = [text for text in texts if not _NUMBER.fullmatch(text)]
    if odd and len(odd) < len(texts) / 2:
        raise InvalidInputError(f"{odd[0]!r} is no number, unlike the other cells; {_REMEDY}")


def _numbers(texts: Sequence[str]) -> npt.NDArray[np.float64]:
    if all(len(text) == 8 and text.isdigit() for text in texts) and not _fits(texts, "%Y%m%d"):
        fitting = [form for form in _SOLID if _fits(texts, form)]
        if fitting:
            raise InvalidInputError(f"{texts[0]!r} looks like a date that begins with its day or month; {_REMEDY}")
    numbers = np.array([float(text) for text in texts])
    if not np.isfinite(numbers).all():
        raise InvalidInputError(f"{texts[int(np.argmin(np.isfinite(numbers)))]!r} is too large a number; {_REMEDY}")
    if numbers.min() >= _SECONDS and numbers.max() >= 100 * numbers.min():
        raise InvalidInputError(
            f"{texts[int(numbers.argmin())]!r} looks like seconds and {texts[int(numbers.argmax())]!r} like "
            f"milliseconds; {_REMEDY} of one unit"
        )
    return numbers


def _fits(texts: Sequence[str], form: str) -> bool:
    return not pd.to_datetime(pd.Series(texts), format=form, errors="coerce").isna().any()


def _dates(texts: Sequence[str]) -> npt.NDArray[np.float64]:
    clocks = [_CLOCK.fullmatch(text) for text in texts]
    zones = {bool(clock and clock["zone"]) for clock in clocks}
    if len(zones) > 1:
        with_zone, without = (
            next(text for text, clock in zip(texts, clocks, strict=True) if bool(clock and clock["zone"]) is wanted)
            for wanted in (True, False)
        )
        raise InvalidInputError(f"{with_zone!r} has a time zone and {without!r} has none; {_REMEDY}")
    days = pd.Series([clock["date"] if clock else text for text, clock in zip(texts, clocks, strict=True)])
    times = np.array([_seconds(clock) for clock in clocks])
    fitting: dict[str, npt.NDArray[np.float64]] = {}
    most, odd = -1, texts[0]
    for form in filter(_may_fit(days[0]), _FORMATS):
        parsed = pd.to_datetime(days, utc=True, format=form, errors="coerce")
        missing = parsed.isna().to_numpy() | np.isnan(times)
        if not missing.any():
            seconds = parsed.dt.as_unit("us").astype(np.int64).to_numpy() / 1e6 + times
            fitting.setdefault(str(seconds.tolist()), seconds)
        elif (~missing).sum() > most:
            most, odd = int((~missing).sum()), texts[int(missing.argmax())]
    if len(fitting) > 1:
        raise InvalidInputError(f"it can't be told whether {texts[0]!r} begins with day, month or year; {_REMEDY}")
    if not fitting:
        raise InvalidInputError(f"{odd!r} is no number and no date in the format of the other cells; {_REMEDY}")
    return next(iter(fitting.values()))


def _may_fit(day: str) -> Callable[[str], bool]:
    """Return a quick test that each format which fits a cell passes: the same punctuation, letters if it has some."""
    marks, named = set(re.findall(r"[-/.,]", day)), any(map(str.isalpha, day))
    return lambda form: set(re.findall(r"[-/.,]", form)) == marks and ("%b" in form.lower()) == named


def _seconds(clock: "re.Match[str] | None") -> float:
    """Return the seconds since midnight of UTC; nan for a time that no clock shows."""
    if clock is None:
        return 0.0
    hour, minute, second = int(clock["hour"]), int(clock["minute"]), float((clock["second"] or "0").replace(",", "."))
    if minute > 59 or second >= 61 or hour > 23 or (clock["half"] and not 1 <= hour <= 12):
        return math.nan
    if clock["half"]:
        hour = hour % 12 + (12 if clock["half"].upper() == "P" else 0)
    return hour * 3600 + minute * 60 + second - _offset(clock["zone"] or "Z")


def _offset(zone: str) -> int:
    """Return the seconds by which a time zone, such as `+02:00` or `Z`, is ahead of UTC."""
    if zone[0] not in "+-":
        return 0
    digits = zone[1:].replace(":", "")
    ahead = int(digits[:2]) * 3600 + int(digits[2:]) * 60
    return ahead if zone[0] == "+" else -ahead

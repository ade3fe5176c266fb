"""Times and sizes as people write them in study files."""

import re
import time
from datetime import datetime
from datetime import time as time_of_day

_NUMBER = r"\d+(?:\.\d+)?"
_SECONDS = {"d": 86400, "h": 3600, "m": 60, "min": 60, "s": 1, "sec": 1}
_BYTES = {"": 1, "b": 1} | {
    f"{prefix}{unit}": base**power
    for power, prefix in enumerate("kmgt", 1)
    for unit, base in (("b", 1000), ("ib", 1024))
}


def parse_seconds(value: object) -> float:
    """Read `90`, `90s`, `30m`, `8h`, `2d` or `1h30m` as seconds.

    Raises:
        ValueError: If it is nothing of the kind.
    """
    text = str(value).strip()
    if re.fullmatch(_NUMBER, text):
        return float(text)
    parts = re.findall(rf"({_NUMBER})\s*([A-Za-z]+)\s*", text)
    units = [unit.lower() for _, unit in parts]
    in_order = [unit for unit in _SECONDS if unit in units] == units
    if not parts or not in_order or re.sub(rf"({_NUMBER})\s*[A-Za-z]+\s*", "", text):
        raise ValueError("expected a time such as 90s, 30m, 1h30m or 2d")
    return sum(float(number) * _SECONDS[unit] for (number, _), unit in zip(parts, units, strict=True))


def parse_bytes(value: object) -> int:
    """Read `500MB`, `20GB` or `16GiB` as bytes.

    Raises:
        ValueError: If it is nothing of the kind.
    """
    match = re.fullmatch(rf"({_NUMBER})\s*([A-Za-z]*)", str(value).strip())
    if match is None or match.group(2).lower() not in _BYTES:
        raise ValueError("expected a size such as 500MB, 20GB or 16GiB")
    return int(float(match.group(1)) * _BYTES[match.group(2).lower()])


def next_moment(deadline: str, now: float) -> float:
    """Read a time of day (`07:00`, the next one) or an ISO date with time; local time.

    Returns:
        Seconds since the epoch.

    Raises:
        ValueError: If it is neither, or has passed.
    """
    try:
        if len(deadline) <= 5:
            hour, minute = map(int, deadline.split(":"))
            return _next_time_of_day(time_of_day(hour, minute), now)
        found = datetime.fromisoformat(deadline).timestamp()
    except ValueError as error:
        raise ValueError("expected a time of day such as 07:00, or a date such as 2026-12-24T07:00") from error
    if found <= now:
        raise ValueError("expected a moment to come")
    return found


def _next_time_of_day(wanted: time_of_day, now: float) -> float:
    """Return the next moment at which local clocks show a time, also where they are put back or forward before it."""
    today = time.localtime(now)
    moments = [
        time.mktime((today.tm_year, today.tm_mon, today.tm_mday + days, wanted.hour, wanted.minute, 0, 0, 0, -1))
        for days in (0, 1)
    ]
    return next(moment for moment in moments if moment > now)

"""Times and sizes as people write them in study files."""

import re
import time
from datetime import datetime
from datetime import time as time_of_day

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"": 1, "B": 1, "KB": 10**3, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_seconds(value: object) -> float:
    """Read `90`, `90s`, `30m`, `8h` or `2d` as seconds.

    Raises:
        ValueError: If it is nothing of the kind.
    """
    return _parse(value, _SECONDS, "a time such as 90s, 30m or 8h")


def parse_bytes(value: object) -> int:
    """Read `500MB` or `20GB` as bytes.

    Raises:
        ValueError: If it is nothing of the kind.
    """
    return int(_parse(value, _BYTES, "a size such as 500MB or 20GB"))


def _parse(value: object, units: dict[str, int], expected: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", str(value).strip())
    if match is None or match.group(2) not in units:
        raise ValueError(f"expected {expected}")
    return float(match.group(1)) * units[match.group(2)]


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

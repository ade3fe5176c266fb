"""Times and sizes as people write them, and back."""

import re
from datetime import datetime, timedelta

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"": 1, "B": 1, "KB": 10**3, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def duration(seconds: float) -> str:
    """Write a time as `42s`, `3m 10s` or `2h 05m`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def size(n_bytes: float) -> str:
    """Write a number of bytes as `12 kB`, `3.4 MB` or `20 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"


def unit(metric: str) -> str:
    """Return what a difference of a metric is said in."""
    return "nats" if metric == "loss" else "points"


def difference(value: float, metric: str) -> str:
    """Write a difference of a metric with its sign, in its unit: `+1.2`, or `-0.034` for the loss."""
    return f"{value:+.3f}" if unit(metric) == "nats" else f"{100 * value:+.1f}"


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
    start = datetime.fromtimestamp(now)
    try:
        if len(deadline) <= 5:
            hour, minute = map(int, deadline.split(":"))
            moment = start.replace(hour=hour, minute=minute, second=0, microsecond=0)
            return (moment if moment > start else moment + timedelta(days=1)).timestamp()
        found = datetime.fromisoformat(deadline).timestamp()
    except ValueError as error:
        raise ValueError("expected a time of day such as 07:00, or a date such as 2026-12-24T07:00") from error
    if found <= now:
        raise ValueError("expected a moment to come")
    return found

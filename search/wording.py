"""Times, sizes, differences of metrics, and texts of users, written for people."""

import re

# Control characters, other separators of lines, characters that turn the direction of writing, and halves of pairs.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

# Metrics that aren't shares of 1, and what they are in; differences of all others are said in points.
UNITS = {"loss": "nats", "rmse": "units", "mae": "units"}


# What is smaller is an error of rounding; what is larger needs no decimals.
_ROUNDING, _LARGE = 1e-12, 1e7

# Metrics that are in points already, from 0 to 100.
IN_POINTS = ("bleu", "chrf")


def duration(seconds: float) -> str:
    """Write a time as `42s`, `3m 10s` or `2h 05m`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def rounded(value: float | None, digits: int = 4, sign: str = "") -> str:
    """Write a metric with so many decimals; with so many significant digits where decimals would say nothing.

    Args:
        value: The metric; nothing is written of None.
        digits: How many.
        sign: `+` for a sign in front of positive ones, too.
    """
    if value is None:
        return ""
    is_plain = abs(value) < _ROUNDING or 10.0**-digits <= abs(value) < _LARGE
    return format(value, f"{sign}.{digits}{'f' if is_plain else 'g'}")


def size(n_bytes: float) -> str:
    """Write a number of bytes as `12 kB`, `3.4 MB` or `20 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"


def unit(metric: str) -> str:
    """Return what a difference of a metric is said in: points, unless the metric is in `UNITS`."""
    return UNITS.get(metric, "points")


def difference(value: float, metric: str) -> str:
    """Write a difference of a metric with its sign, in its unit: `+1.2`, or `-0.034` for the loss."""
    if metric in UNITS:
        return rounded(value, 3, "+")
    return f"{value if metric in IN_POINTS else 100 * value:+.1f}"


def one_line(text: str) -> str:
    """Write a user's text on one line, so that it can't pass for other output or steer a terminal."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def in_markdown(text: str) -> str:
    """Write a user's text within a line or a cell of Markdown, as text."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", one_line(text))


def fenced(text: str) -> list[str]:
    """Write a user's text as a block of Markdown that it can't end itself; returns its lines."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return [fence, text, fence]

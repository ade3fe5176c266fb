"""Times, sizes and differences of metrics, written for people."""

# Metrics that aren't shares of 1, and what they are in; differences of all others are said in points.
UNITS = {"loss": "nats"}


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
    """Return what a difference of a metric is said in: points, unless the metric is in `UNITS`."""
    return UNITS.get(metric, "points")


def difference(value: float, metric: str) -> str:
    """Write a difference of a metric with its sign, in its unit: `+1.2`, or `-0.034` for the loss."""
    return f"{value:+.3f}" if metric in UNITS else f"{100 * value:+.1f}"

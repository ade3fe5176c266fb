"""Who did what when, for records that people are to trust later."""

import getpass
import socket
from datetime import UTC, datetime


def current_user() -> str:
    """Name the user and the machine."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # No entry for the user, as in some containers.
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def timestamp() -> str:
    """Return the time in UTC, to the second, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")

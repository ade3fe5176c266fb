"""Waiting for what another process does: by looking, with a deadline."""

import time
from collections.abc import Callable


def wait_until(seen: Callable[[], object], timeout_s: float = 60) -> None:
    """Look again and again until something is seen.

    Args:
        seen: Looks; may fail by itself.
        timeout_s: After how many seconds it is too late.
    """
    deadline = time.monotonic() + timeout_s
    while not seen():
        assert time.monotonic() < deadline, f"not seen within {timeout_s:g} s"
        time.sleep(0.02)

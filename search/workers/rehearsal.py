"""A process for rehearsals: it imports torch and the backbone while the driver, which needs neither, works on."""

import os
import pickle
import subprocess
import sys
from contextlib import suppress

from promptgraft.search.study import Finding, RehearsalJob, rehearse
from promptgraft.spaces import uncollected


class RehearsalProcess:
    """Rehearses studies; it has imported what that takes by the time that it is asked."""

    def __init__(self) -> None:
        # In a session of its own, Ctrl-C doesn't reach it; it ends when its input does.
        command = [sys.executable, "-P", "-m", __name__]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True)

    def rehearse(self, job: RehearsalJob) -> list[Finding] | None:
        """Return what was found; None if the process failed, so that it has to be done here."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump(job, self._process.stdin)
            self._process.stdin.flush()
            found: list[Finding] = pickle.load(self._process.stdout)
        except (EOFError, OSError, ValueError, pickle.PickleError, TypeError, AttributeError):
            return None  # It has ended, or a plugin's task can't be sent.
        return found

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def answer() -> None:
    """Rehearse each job that is read from standard input, as `RehearsalProcess` does."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # What libraries print is no answer.
    with uncollected(), suppress(Exception):  # The driver, if it is still there, rehearses again and reports the error.
        from promptgraft.objectives.backbones import BACKBONES
        from promptgraft.objectives.measures import Rehearsal as Rehearsal

        BACKBONES.load_all()
        while True:
            found = list(rehearse(pickle.load(sys.stdin.buffer)))
            pickle.dump(found, answers)
            answers.flush()
    os._exit(0)  # There is nothing to tidy up.


if __name__ == "__main__":
    answer()

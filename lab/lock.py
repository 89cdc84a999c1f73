"""One lab command at a time on a machine: the namespaces' names are machine-wide, so the lock is too."""

import errno
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lab.errors import LabError

# In the abstract namespace (unix(7)): there is no file to leave behind, and the kernel releases it when the
# holder dies.
NAME = "\0immich-lab"


@contextmanager
def machine_lock(within: float = 120.0) -> Iterator[None]:
    """Hold the lock. Raises LabError if another command does not release it within so many seconds."""
    deadline = time.monotonic() + within
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as holder:
        while not _bind(holder):
            if time.monotonic() > deadline:
                raise LabError(
                    "Another `python -m lab` command is still at work; wait for it to end or stop it."
                )
            time.sleep(0.1)
        yield


def _bind(holder: socket.socket) -> bool:
    try:
        holder.bind(NAME)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True

"""Whether somebody looks at what the ranks print."""

import os
from pathlib import Path

LAUNCHERS = ("mpiexec", "mpirun", "hydra", "prte", "orte", "srun")


def _parent(pid):
    """(name, parent's pid) of a process; Linux only, elsewhere ("", 0)."""
    try:
        name, rest = Path(f"/proc/{pid}/stat").read_text().split("(", 1)[1].rsplit(")", 1)
        return name, int(rest.split()[1])
    except (OSError, ValueError, IndexError):
        return "", 0


def launcher_on_terminal():
    """Whether the mpiexec above this rank writes to a terminal: what ranks write is a pipe to it."""
    pid = os.getppid()
    while pid > 1:
        name, parent = _parent(pid)
        if not any(launcher in name for launcher in LAUNCHERS):
            return False
        try:
            if os.readlink(f"/proc/{pid}/fd/1").startswith("/dev/pts/"):
                return True
        except OSError:
            return False
        pid = parent
    return False

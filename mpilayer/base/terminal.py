"""Programs at a terminal: what started the ranks, whether somebody looks, and how those without ranks end."""

import os
import sys
from pathlib import Path

from mpilayer.base.errors import UserError

LAUNCHERS = ("mpiexec", "mpirun", "hydra", "prte", "prun", "orte", "srun", "slurmstepd")


def _parent(pid):
    """(name, parent's pid) of a process; Linux only, elsewhere ("", 0)."""
    try:
        name, rest = Path(f"/proc/{pid}/stat").read_text().split("(", 1)[1].rsplit(")", 1)
        return name, int(rest.split()[1])
    except (OSError, ValueError, IndexError):
        return "", 0


def _is_launcher(name):
    return any(launcher in name for launcher in LAUNCHERS)


def launcher():
    """The process that started this rank, directly or through a shell: its number, or None."""
    pid = os.getppid()
    while pid > 1:
        name, parent = _parent(pid)
        if _is_launcher(name):
            return pid
        pid = parent
    return None


def launcher_on_terminal():
    """Whether the mpiexec above this rank writes to a terminal: what ranks write is a pipe to it."""
    pid = os.getppid()
    while pid > 1:
        name, parent = _parent(pid)
        if not _is_launcher(name):
            return False
        try:
            if os.readlink(f"/proc/{pid}/fd/1").startswith("/dev/pts/"):
                return True
        except OSError:
            return False
        pid = parent
    return False


def run_alone(work, parser, argv):
    """work(options) of a program without ranks; what its user can mend ends it with one line, and status 2."""
    try:
        work(parser.parse_args(argv))
    except UserError as error:
        print(f"mpilayer: {error}", file=sys.stderr)
        raise SystemExit(2) from None

"""Start a run on several ranks, and after a failure start it again from its newest checkpoint:

    python -m mpilayer.launch -n 4 --restarts 3 -- --net resnet-mini --checkpoint saved

What follows -- are options of mpilayer.train, or a program of one's own that resumes by itself, as in -- train.py.
"""

import argparse
import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

from mpilayer.base.cli import HelpFormatter, Parser, count, natural
from mpilayer.base.errors import UserError
from mpilayer.base.processes import FirstDeath, ranks_below, state
from mpilayer.base.terminal import run_alone
from mpilayer.mpi import ulfm
from mpilayer.storage.checkpoint_files import numbers

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
ENDING = PASSED_ON[:3]  # after these nothing is started again
WRONG_OPTIONS = 2  # exit status of what would fail again in the same way
FIRST_PAUSE, LONGEST_PAUSE = 1, 60  # seconds before a new start; doubled each time
ANSWER = 20  # seconds in which a host must start a program
SYMPTOM = "| MPI failed"  # what other ranks say of a death
NOTICED = 0.2  # seconds that a death may be noticed late; an error is printed longer before its rank ends
LINGERING = 10  # seconds after the end of the first rank, in which the others end, too
STOPPED = "T"  # a process, as by SIGSTOP
GONE = 10  # seconds in which ranks end that their launcher has left behind
PR_SET_PDEATHSIG = 1


class Words(Parser):
    """Options of mpilayer.train without a -- before them are the first mistake."""

    def error(self, message):
        """Raise UserError."""
        if message.startswith("unrecognized arguments"):
            raise UserError(f"{message} | try: -- before the options of mpilayer.train")
        super().error(message)


def parser():
    """All options."""
    p = Words(prog="python -m mpilayer.launch", description=__doc__, formatter_class=HelpFormatter)
    p.add_argument("-n", type=count, required=True, metavar="P", dest="ranks", help="ranks")
    p.add_argument("--restarts", type=natural, default=3, metavar="R", help="new starts after failures, at most")
    p.add_argument("--hosts", type=hosts, default={}, metavar="A:SLOTS,B:SLOTS,...",
                   help="where to start; a host that no longer answers is left out")
    p.add_argument("--launcher", help="default: the mpiexec next to this Python, else that of PATH")
    p.add_argument("arguments", nargs=argparse.REMAINDER, metavar="-- ARGUMENTS",
                   help="of mpilayer.train, or a program")
    return p


def hosts(text):
    """{host: its slots} of a command line."""
    found = {}
    for word in text.split(","):
        name, _, slots = word.partition(":")
        if not name or not (slots or "1").isdigit() or int(slots or 1) < 1:
            raise argparse.ArgumentTypeError(f"expected HOST:SLOTS,..., got {text!r}")
        found[name] = int(slots or 1)
    return found


class Attempt(NamedTuple):
    """How one start ended: exit status, the error it printed, and the newest checkpoint then."""

    status: int
    reason: str
    newest: int

    def __str__(self):
        return f"exit status {self.status}" + (f": {self.reason}" if self.reason else "")

    def repeats(self, last):
        """Whether the attempt before failed in the same way, but for numbers, and no checkpoint was made since."""
        def form(attempt):
            return attempt.status, attempt.newest, re.sub(r"\d+", "0", attempt.reason)

        return last is not None and form(self) == form(last)


class Launch:
    """Starts of one program, one after the other."""

    def __init__(self, options):
        self.options, self.ranks, self.hosts = options, options.ranks, dict(options.hosts)
        self.program, self.folder = program(options.arguments)
        self.launcher, self.is_open_mpi = find_launcher(options.launcher)
        self.process, self.stopped_by = None, None

    def run(self):
        """The exit status of the last start."""
        before = {number: signal.signal(number, self._pass_on) for number in PASSED_ON}
        try:
            last = None
            for number in range(1 + self.options.restarts):
                attempt = self._attempt()
                if self._is_final(attempt, last, number):
                    break
                last = attempt
                self._pause(attempt, number)
                if self.stopped_by:
                    break
                self._leave_out()
            return attempt.status
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def _pass_on(self, number, _):
        if number in ENDING:
            self.stopped_by = number
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    def _is_final(self, attempt, last, number):
        """Whether nothing is to be started after this attempt; if it failed, why not is said."""
        if attempt.status == 0 or self.stopped_by:
            return True
        if attempt.status == WRONG_OPTIONS:
            return _say(f"not started again: {attempt.reason or 'these options cannot work'}")
        if attempt.repeats(last):
            return _say(f"not started again: failed twice in the same way without a new checkpoint, {attempt}")
        return number == self.options.restarts and _say(f"not started again after {number} restarts, {attempt}")

    def _pause(self, attempt, number):
        seconds = min(LONGEST_PAUSE, FIRST_PAUSE * 2**number)
        _say(f"{attempt} | start {number + 2} of at most {1 + self.options.restarts} in {seconds} s"
             + (f", after checkpoint {attempt.newest}" if attempt.newest else ""))
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.stopped_by:
            time.sleep(0.05)

    def _command(self, ranks, places, program):
        words = [self.launcher, "-n", str(ranks)]
        if places:
            words += ["--host" if self.is_open_mpi else "-hosts",
                      ",".join(f"{host}:{slots}" for host, slots in places.items())]
        if self.is_open_mpi and "shrink" in program:  # of --on-failure
            words += ulfm.OPTIONS
        return [*words, *program]

    def _attempt(self):
        """Start the program on the ranks, and wait for its end."""
        self.process = subprocess.Popen(self._command(self.ranks, self.hosts, self.program), stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        start_new_session=True, preexec_fn=_end_with_parent)
        errors, death = [], FirstDeath(self.process.pid)
        readers = [threading.Thread(target=_copy, args=(*pipes, errors), daemon=True) for pipes in (
            (self.process.stdout, sys.stdout), (self.process.stderr, sys.stderr))]
        for reader in readers:
            reader.start()
        status, stopped = self._ended(death)
        _end_group(self.process.pid)
        for reader in readers:
            reader.join(GONE)
        self.process = None
        return Attempt(128 - status if status < 0 else status, stopped or _reason(errors, death, status),
                       max(numbers(self.folder), default=0) if self.folder else 0)

    def _ended(self, death):
        """(exit status of the launcher, why it was killed or nothing): it would wait for ever for ranks that were
        stopped when MPI had ended, for which no other rank waits.
        """
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(1), ""
            if death.moment and time.monotonic() > death.moment + LINGERING:
                left = dict(ranks_below(self.process.pid))
                if left and all(state(pid) == STOPPED for pid in left.values()):
                    _end_group(self.process.pid)
                    ranks = ", ".join(f"rank {rank}, process {pid}, is stopped" for rank, pid in sorted(left.items()))
                    return self.process.wait(), f"{ranks}, and the others have ended"

    def _leave_out(self):
        """Forget hosts that do not answer; fewer ranks if those that are left have fewer slots. Raises UserError."""
        answers = {host: self._answers(host) for host in self.hosts}
        for host in [host for host, fine in answers.items() if not fine]:
            _say(f"host {host} does not start programs any more: left out")
            del self.hosts[host]
        if answers and not self.hosts:
            raise UserError("no host starts programs any more | try: mpiexec by hand")
        if self.hosts and sum(self.hosts.values()) < self.ranks:
            self.ranks = sum(self.hosts.values())
            _say(f"on {self.ranks} ranks from here on")

    def _answers(self, host):
        try:
            return subprocess.run(self._command(1, {host: 1}, ["true"]), stdin=subprocess.DEVNULL, timeout=ANSWER,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0
        except subprocess.TimeoutExpired:
            return False


def program(arguments):
    """(the command of a rank, the folder of its checkpoints or None). Raises UserError."""
    words = arguments[1:] if arguments[:1] == ["--"] else arguments
    if words and (words[0].endswith(".py") or words[0] == "-m"):
        return [sys.executable, "-m", "mpi4py", *words], None
    folder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    folder.add_argument("--checkpoint", type=Path)
    found = folder.parse_known_args(words)[0].checkpoint
    if found is None:
        raise UserError("a run without checkpoints would begin anew | try: -- --checkpoint DIR ...")
    resume = [] if "--resume" in words else ["--resume"]
    return [sys.executable, "-m", "mpilayer.train", *words, *resume], found


def find_launcher(given=None):
    """(path of mpiexec or srun, whether it is Open MPI's). Raises UserError."""
    here = Path(sys.executable).parent
    path = shutil.which(given or "mpiexec", path=None if given else f"{here}:{os.environ.get('PATH', '')}")
    if path is None:
        raise UserError(f"there is no {given or 'mpiexec'} | try: pip install 'mpilayer[mpi]', or --launcher srun")
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    return path, "Open MPI" in version or "open-mpi" in version


def _end_with_parent():
    """The launcher ends when this program does, however that is."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _copy(pipe, out, errors):
    """Pass on what is printed, and note the errors of ranks, and when they came."""
    for line in pipe:
        out.write(line)
        out.flush()
        if line.startswith("mpilayer: "):
            errors.append((time.monotonic(), line.strip().removeprefix("mpilayer: ")))


def _reason(errors, death, status):
    """The error that a rank has printed, unless another one had died before: what others then say of it is no cause.
    Nothing if all that was on another host. Ranks that refuse their options end together, and none has died.
    """
    died = "; ".join(f"rank {rank}, process {pid}, has died" for rank, pid in death.first.items())
    if not errors:
        return died
    moment, error = errors[-1]
    its_own = error.startswith(tuple(f"rank {rank} " for rank in death.first))
    symptom = SYMPTOM in error and not its_own  # however late the death was noticed
    first = died and status != WRONG_OPTIONS and (symptom or death.moment < moment + NOTICED)
    return f"{died}; then {error}" if first else error


def _end_group(number):
    """End the ranks that a launcher has left behind, and wait for that: they may hold the lock of the checkpoints."""
    end = time.monotonic() + GONE
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < end:
            os.killpg(number, signal.SIGKILL)
            time.sleep(0.02)


def _say(text):
    """Print a line of this program's; True."""
    print(f"mpilayer.launch: {text}", file=sys.stderr, flush=True)
    return True


def main(argv=None):
    """Start, and start again."""
    def work(options):
        raise SystemExit(Launch(options).run())

    run_alone(work, parser(), argv)


if __name__ == "__main__":
    main()

"""Ranks below a launcher: who of them ended first."""

import os
import subprocess
import sys

from mpilayer.base import processes

LAUNCHER = """
import os, subprocess, sys
ranks = [subprocess.Popen(["sleep", "60"], env={**os.environ, "PMI_RANK": str(rank)}) for rank in range(3)]
print(*(rank.pid for rank in ranks), flush=True)
sys.stdin.read()
for rank in ranks:
    rank.kill()
"""


def test_those_that_have_ended_when_the_first_is_seen_are_all_named(monkeypatch):
    """Which of them was the first, nobody knows; on a busy machine a look may come late."""
    real = processes.select.poll

    class Late:
        """Looks when all that die have died."""

        def __init__(self):
            made = real()
            self.register, self.look = made.register, made.poll

        def poll(self, milliseconds):
            if watched["all"] and not watched["dead"]:
                for pid in pids[1:]:
                    os.kill(pid, 9)
                while any(processes.state(pid) not in ("Z", "") for pid in pids[1:]):
                    pass
                watched["dead"] = True
            watched["all"] = watched["looks"] > 3
            watched["looks"] += 1
            return self.look(milliseconds)

    watched = {"all": False, "dead": False, "looks": 0}
    monkeypatch.setattr(processes.select, "poll", Late)
    with subprocess.Popen([sys.executable, "-c", LAUNCHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as launcher:
        pids = list(map(int, launcher.stdout.readline().split()))
        death = processes.FirstDeath(launcher.pid)
        death.thread.join(20)
        launcher.stdin.close()
    assert death.first == {1: pids[1], 2: pids[2]}
    assert death.moment is not None

"""A Slurm of two nodes on this machine, for tests: munged, slurmctld and two slurmd, with all files in one folder."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.ranks import environment

PROGRAMS = "munged", "slurmctld", "slurmd", "srun"
LACKING = [name for name in PROGRAMS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")]
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
SlurmUser=root
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1
KillWait=2
NodeName=node[1-2] NodeHostname={host} Port=[{first}-{second}] CPUs=1 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def _ports(count):
    """Numbers that are free, one after the other."""
    for first in range(20_000 + os.getpid() % 10_000, 60_000, count):
        with socket.socket() as one:
            if one.connect_ex(("localhost", first)):
                return range(first, first + count)
    raise RuntimeError("no free port")


class Slurm:
    """Use as `with`; run(words) runs one of its commands, with the environment that submitted jobs have, too."""

    def __init__(self, folder):
        self.folder, host = folder, socket.gethostname().split(".")[0]
        (folder / "state").mkdir()
        folder.chmod(0o700)
        port, first, second = _ports(3)
        (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, host=host, port=port, first=first,
                                                                second=second))
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o600)
        self.path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
        # Over UCX, MPICH sends at its start up to what Slurm's PMI-2 reads at once, or more: docs/clusters.md.
        self.env = environment(SLURM_CONF=str(folder / "slurm.conf"), PATH=self.path, MPIR_CVAR_CH4_NETMOD="ofi")

    def __enter__(self):
        files = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munge.pid", "log-file": "munge.log",
                 "seed-file": "munge.seed"}
        self.run("munged", "--force", *(f"--{option}={self.folder / name}" for option, name in files.items()))
        self.run("slurmctld", "-i")
        for node in ("node1", "node2"):
            self.run("slurmd", "-N", node)
        self.wait_until(lambda: self.run("sinfo", "-h", "-o", "%D %t").stdout.strip() == "2 idle", "two idle nodes")
        return self

    def __exit__(self, *failure):
        self.run("scancel", "--user=root", check=False)
        for file in ("node1.pid", "node2.pid", "slurmctld.pid", "munge.pid"):
            if (self.folder / file).exists():
                os.kill(int((self.folder / file).read_text()), signal.SIGTERM)

    def run(self, *words, check=True):
        """A CompletedProcess with text output."""
        return subprocess.run([*map(str, words)], env=self.env, cwd=self.folder, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=60, check=check)

    def wait_until(self, done, what, seconds=60):
        """Fails the test past its time."""
        end = time.monotonic() + seconds
        while not done():
            logs = "\n".join(f"{log.name}: {log.read_text()[-2000:]}" for log in self.folder.glob("*.log"))
            assert time.monotonic() < end, f"no {what} after {seconds} s\n{logs}"
            time.sleep(0.1)

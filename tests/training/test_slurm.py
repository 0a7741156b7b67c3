"""The main job under Slurm: srun, mpiexec in a job, and examples/slurm.sh, which goes on after its time is over."""

import json
import os
import re

import pytest

from mpilayer.report.runs import RUN
from mpilayer.storage.checkpoint_files import numbers
from tests.ranks import TOP, train
from tests.slurm import LACKING, Slurm

pytestmark = [pytest.mark.skipif(bool(LACKING), reason=f"no {', '.join(LACKING)}: apt install slurm-wlm"),
              pytest.mark.skipif(os.geteuid() != 0, reason="a Slurm of one's own needs root")]
WORDS = ("--steps", "300", "--batch", "48", "--bucket", "4k", "--chunk", "32k", "--progress", "poll")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with Slurm(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


def submitted(slurm, script, *words):
    """The number of a job of two ranks, one on each node."""
    said = slurm.run("sbatch", "--nodes=2", "--ntasks-per-node=1", f"--output={slurm.folder}/job-%j", script, *words)
    return re.search(r"job (\d+)", said.stdout)[1]


def state(slurm, job):
    return slurm.run("scontrol", "show", "job", job).stdout.partition("JobState=")[2].split()[0]


def test_ranks_that_srun_starts_are_one_job_on_two_nodes(slurm):
    done = slurm.run("srun", "--nodes=2", "--ntasks=2", "--mpi=pmi2", "python", "-m", "mpilayer.train", "--steps", 3,
                     "--out", slurm.folder / "srun")
    assert "2 ranks, 1 on this machine" in done.stdout
    record = json.loads((slurm.folder / "srun" / RUN).read_text())
    assert (record["environment"]["ranks"], record["environment"]["nodes"]) == (2, 2)


def test_mpiexec_in_a_job_takes_the_nodes_of_the_job(slurm):
    script = slurm.folder / "mpiexec.sh"
    script.write_text('#!/bin/bash\nexec mpiexec python -m mpilayer.train --steps 3 --out mpiexec\n')
    job = submitted(slurm, script)
    slurm.wait_until(lambda: state(slurm, job) == "COMPLETED", "end of the job")
    record = json.loads((slurm.folder / "mpiexec" / RUN).read_text())
    assert (record["environment"]["ranks"], record["environment"]["nodes"]) == (2, 2)


def test_a_job_whose_time_is_over_goes_on_to_the_bits_of_an_undisturbed_run(slurm, tmp_path):
    job = submitted(slurm, TOP / "examples" / "slurm.sh", *WORDS, "--checkpoint-every", "20")
    slurm.wait_until(lambda: max(numbers(slurm.folder / "saved"), default=0) > 1, "second checkpoint")
    slurm.run("scancel", "--batch", "--signal=USR1", job)  # as Slurm itself does near the end of a job's time
    slurm.wait_until(lambda: state(slurm, job) == "COMPLETED", "end of the job")
    log = (slurm.folder / f"job-{job}").read_text()
    assert "stopped by a signal after" in log
    assert re.search(r"resumed after \d+ steps", log)
    final = json.loads((slurm.folder / "run" / RUN).read_text())["final"]
    assert len(final["resumed"]) == 1
    undisturbed = train(2, *WORDS, "--out", tmp_path)
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert json.loads((tmp_path / RUN).read_text())["final"]["weights_sha256"] == final["weights_sha256"]

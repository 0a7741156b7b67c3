"""The stand-in for CuPy, which runs the GPU's kernels on the CPU."""

import pytest

import tests.emulator
from tests.gpu.rooms import forget


@pytest.fixture
def device():
    """CuPy's module, of which a test may choose the mode."""
    yield tests.emulator.install()
    forget()

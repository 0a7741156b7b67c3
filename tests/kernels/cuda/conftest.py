"""CUDA kernels on the emulated GPU."""

from tests.emulator.fixtures import device, pytest_runtest_setup  # noqa: F401 - for pytest

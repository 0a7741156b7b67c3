"""`bench gpu`, some of it on the emulated GPU."""

from tests.emulator.fixtures import device, need_compiler  # noqa: F401 - a fixture


def pytest_runtest_setup(item):
    """Tests of cubins need NVRTC only."""
    if "device" in item.fixturenames:
        need_compiler()

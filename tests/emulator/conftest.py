"""The emulator itself."""

from tests.emulator.fixtures import pytest_runtest_setup  # noqa: F401 - for pytest

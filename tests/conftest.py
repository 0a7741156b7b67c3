"""Which tests run side by side and in which order: pytest-xdist has two workers, and a job of ranks many tests."""

import pytest

STARTING = {"test_train", "test_nccl", "test_staging", "test_bench_gpu"}  # of tests/gpu
FREE = {"kernels", "emulator", "gpu"}  # folders whose other tests use one core


def _ranks(item):
    """Of a test that runs on some."""
    return item.callspec.params.get("count", 0) if hasattr(item, "callspec") else 0


def pytest_collection_modifyitems(items):
    """One worker takes all tests that start ranks, one after another; the other one the rest.

    In a file those on as many ranks follow each other: tests.ranks starts these once.
    """
    places = {path: number for number, path in enumerate(dict.fromkeys(item.path for item in items))}
    items.sort(key=lambda item: (places[item.path], _ranks(item) if isinstance(_ranks(item), int) else 0))
    for item in items:
        folder, name = item.path.parent.name, item.path.stem
        if not (name == "test_emulator" or (folder in FREE and name not in STARTING)):
            item.add_marker(pytest.mark.xdist_group("ranks"))

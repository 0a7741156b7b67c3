"""Which tests run side by side and in which order: pytest-xdist has two workers, and a job of ranks many tests."""

import pathlib

import pytest

LONGEST = "test_training"
HERE = pathlib.Path(__file__).parent


def _count(item):
    """Ranks of a test that shares them with others (tests.ranks.on_ranks), or 0."""
    shares = hasattr(item, "callspec") and hasattr(getattr(item, "function", None), "body")
    return item.callspec.params["count"] if shares else 0


def pytest_collection_modifyitems(items):
    """Those of kernels, which compiles them, then the longest, then all others.

    Those of a file on as many ranks follow each other on one worker: these are started once.
    """
    files = list(dict.fromkeys(item.path for item in items))
    items.sort(key=lambda item: (item.path.parent == HERE, item.path.stem != LONGEST, files.index(item.path),
                                 _count(item)))
    for item in items:
        if _count(item):
            item.add_marker(pytest.mark.xdist_group(f"{item.path.stem} on {_count(item)} ranks"))

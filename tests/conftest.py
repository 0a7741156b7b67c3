"""Which tests run side by side and in which order: pytest-xdist has two workers, and a job of ranks many tests."""

from pathlib import PurePath

from xdist.scheduler import LoadScopeScheduling

STARTING = {"test_train.py", "test_nccl.py", "test_staging.py", "test_bench_gpu.py"}  # of tests/gpu
FREE = {"kernels", "emulator", "gpu"}  # folders whose other tests use one core
ONE_CORE = "test_training.py::test_one_rank_a_node_compiles"


class Sides(LoadScopeScheduling):
    """One worker takes all tests that start ranks, for these want both cores, and the other one the rest, by files."""

    def _split_scope(self, nodeid):
        file = PurePath(nodeid.split("::")[0])
        free = file.name == "test_emulator.py" or (file.parent.name in FREE and file.name not in STARTING)
        return str(file) if free else ONE_CORE if ONE_CORE in nodeid else "ranks"


def pytest_xdist_make_scheduler(config, log):
    """What xdist asks for."""
    return Sides(config, log)


def _count(item):
    """Ranks of a test that shares them with others (tests.ranks.on_ranks), or 0."""
    shares = hasattr(item, "callspec") and hasattr(getattr(item, "function", None), "body")
    return item.callspec.params["count"] if shares else 0


def pytest_collection_modifyitems(items):
    """In a file those on as many ranks follow each other: the ranks are started once."""
    files = list(dict.fromkeys(item.path for item in items))
    items.sort(key=lambda item: (files.index(item.path), _count(item)))

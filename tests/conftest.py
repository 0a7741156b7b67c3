"""Which tests run side by side and in which order: pytest-xdist has two workers, and a job of ranks many tests."""

from pathlib import PurePath

from xdist.scheduler import LoadScopeScheduling

# Files whose tests keep several ranks busy, which want both cores.
RANKS = {"baselines", "cluster", "convergence", "engine", "examples", "extending", "failures", "gradient_queue", "nccl",
         "node_shared", "own_source", "schedules", "staging", "train", "training"}


class Sides(LoadScopeScheduling):
    """One worker takes all tests of ranks, and the other one the rest, by files."""

    def _split_scope(self, nodeid):
        file = nodeid.split("::")[0]
        name = PurePath(file).stem.removeprefix("test_")
        return "ranks" if name in RANKS else file


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

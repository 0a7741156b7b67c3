"""Which tests run side by side and in which order: pytest-xdist has two workers, and a job of ranks many tests."""

from pathlib import PurePath

import pytest
from xdist.scheduler import LoadScopeScheduling

# Files whose tests keep several ranks busy, which want both cores. Those of storage/, torch/ and test_resume do, too:
# with all of them one worker would take much longer than the other.
RANKS = {"agreement", "baselines", "cluster", "convergence", "engine", "examples", "extending", "failures", "fuzz",
         "fuzz_library", "gradient_queue", "hang", "hangs", "job", "nccl", "node_shared", "own_source", "schedules",
         "staging", "statistics", "topk", "train", "training"}


# Files for `pytest -m quick`, which is to answer in two minutes where kernels have been compiled before.
QUICK = {"augment", "buckets", "cache", "collectives", "compress", "engine", "env", "gradient_queue", "hang", "idx",
         "info", "layernorm", "loss", "make", "messages", "parameters", "partition", "prefetch", "ranks", "rooms",
         "sources", "step", "stored", "structure", "synthetic", "text", "update", "wire"}


def _name(path):
    return PurePath(path).stem.removeprefix("test_")


class Sides(LoadScopeScheduling):
    """One worker takes all tests of ranks, and the other one the rest, by files."""

    def _split_scope(self, nodeid):
        file = nodeid.split("::")[0]
        return "ranks" if _name(file) in RANKS else file


def pytest_xdist_make_scheduler(config, log):
    """What xdist asks for."""
    return Sides(config, log)


def _count(item):
    """Ranks of a test that shares them with others (tests.ranks.on_ranks), or 0."""
    shares = hasattr(item, "callspec") and hasattr(getattr(item, "function", None), "body")
    return item.callspec.params["count"] if shares else 0


def pytest_collection_modifyitems(items):
    """Mark the quick ones. In a file those on as many ranks follow each other: the ranks are started once."""
    for item in items:
        if _name(item.path) in QUICK and "cuda" not in item.path.parts:
            item.add_marker(pytest.mark.quick)
    files = list(dict.fromkeys(item.path for item in items))
    items.sort(key=lambda item: (files.index(item.path), _count(item)))

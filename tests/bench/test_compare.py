"""What `bench schedules` makes of its candidates: their options, their settings, and the figures of their steps."""

import pytest

import nets
from bench import compare, schedules
from mpilayer.base.errors import UserError
from mpilayer.exchange.settings import Settings
from mpilayer.mpi.link_model import LinkModel
from mpilayer.training import options as main_job
from tests.ranks import on_ranks

MEASURED = Settings(LinkModel(1e-5, 1e-9), progress="none", wire_options={}, bucket=1000, chunk=10**6)


def workload(ranks):
    """One that needs no measurement."""
    found = compare.Workload(ranks, nets.build("alexnet-mini"), 1)
    found.settings = MEASURED
    return found


def test_candidates_are_written_as_for_the_main_job():
    options = compare.options_of("delayed:2+momentum-correction+wire=topk", ["--slow", "1:3", "--wire", "bfloat16"], 2)
    assert (options.schedule, options.delay, options.momentum_correction) == ("delayed", 2, True)
    assert (options.slow, options.wire) == ([(1, 3.0)], "topk")
    with pytest.raises(UserError, match="--slow 2"):
        compare.options_of("oneshot", ["--slow", "2:3"], 2)


def test_options_of_the_main_job_are_for_all_candidates():
    argv = ["--steps", "2", "--wire", "topk", "--top-share=0.1", "--schedules", "oneshot,ps", "--slow", "1:3"]
    _, words = schedules.measurement(add_help=False).parse_known_args(argv)
    assert words == ["--wire", "topk", "--top-share=0.1", "--slow", "1:3"]
    assert schedules.parser().parse_args(argv).top_share == 0.1


@on_ranks(1)
def test_candidates_send_as_the_workload_does_where_they_do_not_say(ranks):
    work = workload(ranks)

    def settings(text, *words):
        return main_job.settings(compare.options_of(text, words, 1)).measured_as(work.settings)

    assert settings("layerwise") == MEASURED
    assert settings("layerwise+progress=poll+bucket=none") == MEASURED._replace(progress="poll", bucket=None)
    topk = settings("layerwise+bucket=10", "--wire", "topk", "--top-share", "0.1")
    assert topk == MEASURED._replace(wire="topk", wire_options={"top_share": 0.1}, bucket=10)


@on_ranks(2)
def test_bounds_are_of_those_that_send_all_gradients_as_measured(ranks):
    work = workload(ranks)
    names = ["oneshot", "layerwise+progress=poll", "layerwise+reduction=ordered", "layerwise+wire=bfloat16",
             "local-sgd+period=2", "ps+staleness=1"]
    candidates = {name: compare.Candidate(work, compare.options_of(name, [], 2)) for name in names}
    said = []
    readings = compare.take_turns(work, candidates, 1, 2, said.append)
    assert len(said) == 2 + len(names)
    assert [len(readings[name]) for name in (*compare.ALONE, *names)] == [2] * len(readings)
    rows = {row["schedule"]: row for row in compare.rows(work, candidates, readings)}
    assert list(rows) == names
    assert [name for name in names if "bound_seconds" in rows[name]] == names[:2]
    assert [name for name in names if "staleness" in rows[name]] == names[-1:]
    for name, combined in (("oneshot", sum), (names[1], max)):
        row = rows[name]
        assert row["bound_seconds"] == combined([row["compute_seconds"], row["communication_seconds"]])
        assert row["bound_share"] == row["bound_seconds"] / row["iteration_seconds"]


@on_ranks(2)
def test_schedules_take_turns_whatever_memory_their_gradients_are_in(ranks):
    """In bfloat16 some are written where they are sent from; a schedule must not meet another's memory."""
    found = compare.Workload(ranks, nets.build("alexnet-mini", precision="bfloat16"), 1)
    found.settings = MEASURED._replace(wire="bfloat16")
    names = ["oneshot", "gossip", "delayed:1", "layerwise+wire=float32"]
    candidates = {name: compare.Candidate(found, compare.options_of(name, ["--wire", "bfloat16"], 2))
                  for name in names[:3]} | {names[3]: compare.Candidate(found, compare.options_of(names[3], [], 2))}
    readings = compare.take_turns(found, candidates, 2, 2, lambda text: None)
    assert [len(readings[name]) for name in names] == [4] * 4


@on_ranks(2)
def test_a_second_round_begins_where_the_first_did(ranks):
    """Whichever gradient buffer a delayed schedule has left its layers with."""
    for delay, steps in ((1, 4), (2, 4)):
        work = workload(ranks)
        candidates = {"it": compare.Candidate(work, compare.options_of(f"delayed:{delay}", [], 2))}
        readings = compare.take_turns(work, candidates, 2, steps, lambda text: None)
        assert [len(readings[name]) for name in (*compare.ALONE, "it")] == [2 * steps] * 3

"""The flight recorder, and whom the message of a hang names; whole runs that hang: tests/training/test_hangs.py."""

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

import mpilayer
from mpilayer import flight
from mpilayer.base.errors import HangError
from mpilayer.mpi import flight_recorder as fr
from mpilayer.mpi import hang, hang_watch
from mpilayer.mpi.hang import ALIVE, SILENT, Seen
from tests.ranks import on_ranks


def recorder(rank=0, size=2):
    return fr.FlightRecorder(np.zeros(fr.BLOCK, np.int64), rank, size)


def test_what_is_written_is_what_is_read():
    own, before = recorder(3, 5), time.perf_counter()
    own.where = "delayed | step 7"
    own.doing("forward conv1")
    own.waiting("conv2")
    first = own.posted("conv9", 6, 400)
    own.posted("fc", 7, 0)
    own.done(first)
    found = fr.report(own.block)
    assert (found.rank, found.size, found.pid, found.place) == (3, 5, os.getpid(), "delayed | step 7 | forward conv1")
    assert found.waiting == "conv2"
    assert [(record.number, record.key, record.size, record.state) for record in found.records] == [
        (0, (0, 6, "conv9"), 400, "done"), (1, (0, 7, "fc"), 0, "started")]
    assert [record.key for record in found.open] == [(0, 7, "fc")]
    assert before <= found.records[0].posted <= found.records[0].done <= found.moved <= time.perf_counter()
    assert found.moved + found.clock == pytest.approx(time.time(), abs=1)
    own.where = "evaluation"
    assert fr.report(own.block).place == "evaluation", "what was done before is not part of it"


def test_the_last_records_are_kept_and_a_late_one_does_not_write_into_another():
    own = recorder()
    numbers = [own.posted(f"message {number}", number, 4) for number in range(fr.ENTRIES + 3)]
    own.done(numbers[0])
    own.done(numbers[-1])
    records = fr.report(own.block).records
    assert [record.number for record in records] == list(range(3, fr.ENTRIES + 3))
    assert [record.number for record in records if record.done] == [fr.ENTRIES + 2]


def test_a_long_text_is_cut_and_other_letters_are_allowed():
    own = recorder()
    own.where = "é" * 500
    assert fr.report(own.block).where.startswith("é" * 60)
    assert fr.report(np.zeros(fr.BLOCK, np.int64)) is None


def seen(rank, state=ALIVE, waiting="", posted=(), done=()):
    """A rank that waits, with messages (step, name) of which some are done."""
    own = recorder(rank)
    own.where = f"layerwise | step {rank}"
    own.waiting(waiting)
    for step, name in posted:
        number = own.posted(name, step, 4)
        if (step, name) in done:
            own.done(number)
    return Seen(rank, "node", state, 12.3, fr.report(own.block))


def test_a_rank_that_is_stopped_or_silent_is_named_before_all_others():
    [text] = hang.culprits([seen(0), seen(1, "is stopped", posted=[(4, "fc")]), seen(2, waiting="fc")])
    assert text == ("rank 1 (node) is stopped; it has been in layerwise | step 1 for 12 s,"
                    " last message fc of step 4 (started)")
    assert hang.culprits([seen(0, waiting="fc"), Seen(1, "other", SILENT)]) == [f"rank 1 (other) {SILENT}"]


def test_a_rank_that_does_not_wait_is_named_if_all_answer():
    [text] = hang.culprits([seen(0, waiting="fc"), seen(1), seen(2, waiting="fc")])
    assert text.startswith("rank 1 (node) has not come back")


def test_if_all_wait_those_are_named_that_did_not_post_the_oldest_message_that_is_not_done():
    posted = [(3, "fc"), (3, "conv2"), (3, "conv1")]
    others = [seen(rank, waiting="conv2", posted=posted, done=posted[:1]) for rank in (0, 2)]
    [text] = hang.culprits([*others, seen(1, waiting="conv1", posted=[(3, "fc"), (3, "conv1")], done=posted[:1])])
    assert text.startswith("rank 1 (node)")
    assert text.endswith("has not posted conv2 of step 3")


def test_if_all_posted_the_same_it_is_the_network():
    [text] = hang.culprits([seen(rank, waiting="fc", posted=[(0, "fc")]) for rank in range(3)])
    assert text.startswith("no rank is missing")


def test_ten_are_named_and_the_others_counted():
    text = hang.describe([seen(rank, "is stopped" if rank else ALIVE, "fc") for rank in range(30)], 600)
    assert text.count("is stopped") == 10
    assert "and 19 more" in text
    assert "for 600 s" in text


# On ranks


@on_ranks(2, 3)
def test_messages_are_recorded_from_post_to_arrival(ranks):
    parameters = mpilayer.Parameters({"a": np.ones(40, np.float32), "b": np.ones(8, np.float32)})
    for order in ("backward", "need", "split"):
        with mpilayer.GradientQueue(ranks, parameters, order=order, bucket=0) as queue:
            for step in range(3):
                for name in ("b", "a"):
                    queue.gradient(name, step)[...] = 1
                    queue.post(step, name)
                for name in ("a", "b"):
                    for _, total in queue.settle(name, up_to=step):
                        assert (total == ranks.size).all()
        found = fr.report(ranks.recorder.block)
        last = [record for record in found.records if record.step == 2][-2:]
        assert {record.name.removesuffix(" (gather)") for record in last} == {"a", "b"}
        assert {record.size for record in last} == {160, 32}
        for record in last:
            assert record.posted <= record.started <= record.done


@on_ranks(2)
def test_a_rank_that_posts_other_layers_is_named(ranks):
    parameters = mpilayer.Parameters({name: np.ones(8, np.float32) for name in ("a", "b", "c")})
    with mpilayer.GradientQueue(ranks, parameters, bucket=0, progress="poll") as queue:
        ranks.where, ranks.timeout = "my loop | step 0", 1
        for name in ("c", "b", "a"):
            if (name, ranks.rank) != ("b", 1):
                queue.post(0, name)
        end = {0: lambda: list(queue.settle("a", up_to=0)), 1: lambda: ranks.until(queue.move, "what never comes")}
        with pytest.raises(HangError) as error:
            end[ranks.rank]()
        ranks.timeout = 600
        ranks.meet()  # rank 0 has raised it as well, before b is posted
        for part in ("for 1 s", "rank 1 ", "has not posted b of step 0", "rank 0 for a in my loop | step 0"):
            assert part in str(error.value), str(error.value)
        if ranks.rank == 1:
            queue.post(0, "b")
        for name in parameters:
            list(queue.settle(name, up_to=0))


@on_ranks(3)
def test_ranks_of_the_first_nodes_know_all_others_and_the_rest_know_those(ranks):
    """What each keeps must not grow with the number of ranks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hang_watch, "JUDGES", 2)
        patch.setattr(ranks, "_node", ranks.MPI.COMM_SELF)  # as if each had a node of its own
        nodes = hang_watch.Nodes(ranks, {"node": lambda: [ranks.rank]})
        assert sorted(nodes.nodes) == [0, 1, 2], "of the third: its own, and the two that judge"
        for node in (0, 1) if ranks.rank == 2 else (0, 1, 2):
            assert nodes.ask(node, "node", 5) == [node]
        ranks.meet()
        nodes.close()
    assert bool(nodes.nodes[2]) == (ranks.rank < 2)


@on_ranks(3)
def test_a_rank_that_moves_is_no_hang(ranks):
    ranks.timeout = 0.5
    if ranks.rank == 1:
        for number in range(20):
            time.sleep(0.1)
            ranks.recorder.doing(f"piece {number}")
    ranks.meet()
    ranks.timeout = 600


@on_ranks(3)
def test_records_in_a_folder_are_read_from_there_and_removed(ranks):
    folder = Path(ranks.bcast(tempfile.mkdtemp())) / "flight"
    ranks.keep_records(folder)
    ranks.where = f"step {ranks.rank}"
    ranks.meet()
    assert [each.where for each in fr.read(folder)] == [f"step {rank}" for rank in range(3)]
    ranks.meet()
    ranks.forget_records()
    ranks.meet()
    assert not folder.exists()
    ranks.keep_records()


def test_the_program_shows_all_ranks_the_messages_of_one_and_what_is_wrong(tmp_path, capsys):
    blocks = np.zeros((3, fr.BLOCK), np.int64)
    for rank in (0, 2):
        own = fr.FlightRecorder(blocks[rank], rank, 3)
        own.where = "layerwise | step 3"
        own.posted("conv1", 3, 4)
        if rank == 0:
            own.posted("conv9", 3, 4)
        own.waiting("conv9" if rank == 0 else "conv1")
    blocks.tofile(tmp_path / "node.flight")
    flight.main([str(tmp_path)])
    said = " ".join(capsys.readouterr().out.split())
    for part in ("no records of ranks 1", "rank 2", "has not posted conv9 of step 3"):
        assert part in said
    flight.main([str(tmp_path), "--rank", "2"])
    said = capsys.readouterr().out
    assert "conv1" in said
    assert "conv9" not in said
    for words in (["--rank", "1"], []):
        with pytest.raises(SystemExit):
            flight.main([str(tmp_path / "none") if not words else str(tmp_path), *words])
    said = capsys.readouterr().err
    assert said.count("mpilayer: ") == 2
    assert "expected one of 0, 2" in said
    assert "expected files *.flight" in said

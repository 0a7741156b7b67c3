"""Steps as messages from rank to rank: what they move, and how long two other simulators take for them."""

import json
import re
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nets
from bench import point_to_point as messages
from bench import replay
from mpilayer.compression.buckets import Bucket
from mpilayer.model.networks import Network
from mpilayer.model.profile import Profile
from mpilayer.model.programs import PROGRAMS, Work
from mpilayer.model.wire import Wire

NET = Network(1e9, 1e-5, 0.0, "for a test")
NAMES = "abcd"


def record(schedule, algorithm, ranks, slow=1.0, rate=1e9, **how):
    """Of four layers that compute as long as 100 kB take at 1 Gbit/s, about."""
    profile = Profile(dict.fromkeys(reversed(NAMES), 1e-3), 0.0, 0.0, dict.fromkeys(NAMES, 5e-4))
    layers = [Layer(name) for name in NAMES]
    cut = [Bucket(name, 0, 25_000 * (1 + number), (name,)) for number, name in enumerate(reversed(NAMES))]
    sums = replay.Only(NET._replace(rate=rate), ranks, algorithm)
    return messages.recorded(PROGRAMS[schedule](Work(profile, layers, cut), **how), 8, Wire(sums, sums), slow)


class Layer:
    """As much of one as a Work needs."""

    def __init__(self, name):
        self.name = name


@given(st.integers(1, 7), st.integers(1, 10**7))
def test_both_algorithms_move_what_a_sum_must_and_pair_up(power, size):
    for algorithm, ranks in (("ring", power + 1), ("halving and doubling", 2**power)):
        rounds = [messages.SUMS[algorithm](size, rank, ranks, 1.0) for rank in range(ranks)]
        for each in rounds:
            least = 2 * size * (ranks - 1) / ranks
            assert least <= sum(exchange.size for exchange in each) < least + len(each)
        for step in zip(*rounds, strict=True):
            for rank, exchange in enumerate(step):
                assert step[exchange.to].source == rank
                assert step[exchange.to].size == exchange.size


def interpreted(lines, network):
    """Seconds of a schedule in GOAL: a rank computes one thing at a time; a message starts when sender and receiver are
    ready for it, and takes a latency and its bytes' time.
    """
    done, after, waiting, rank = {}, {}, {}, None
    for line in lines:
        if found := re.fullmatch(r"rank (\d+) {", line):
            rank = int(found[1])
        elif found := re.fullmatch(r"(\w+): (.*)", line):
            waiting[rank, found[1]], after[rank, found[1]] = found[2].split(), []
        elif found := re.fullmatch(r"(\w+) requires (\w+)", line):
            after[rank, found[1]].append((rank, found[2]))
    assert len(waiting) == sum(": " in line for line in lines), "labels are there once"
    halves = {}
    while waiting:
        free = [key for key in waiting if all(other in done for other in after[key])]
        assert free, "nothing can go on"
        for key in free:
            words, begin = waiting.pop(key), max([done[other] for other in after[key]], default=0.0)
            if words[0] == "calc":
                done[key] = begin + int(words[1]) / 1e9
                continue
            mine, other = key[0], int(words[3])
            pair = (mine, other) if words[0] == "send" else (other, mine)
            name = (*pair, words[1], words[5], key[1].replace("s", "r"))
            if name not in halves:
                halves[name] = key, begin
                continue
            first, ready = halves.pop(name)
            end = max(begin, ready) + network.latency + 8 * int(words[1][:-1]) / network.rate
            done[key] = done[first] = end
    assert not halves, "what is sent is received"
    return max(done.values())


@pytest.mark.parametrize(("schedule", "how"), [("oneshot", {}), ("layerwise", {}), ("planned", {}), ("split", {}),
                                          ("delayed", {"delay": 1}), ("local-sgd", {"period": 3})])
@pytest.mark.parametrize(("algorithm", "ranks"), [("ring", 2), ("ring", 3), ("halving and doubling", 4)])
@pytest.mark.parametrize(("slow", "rate"), [(1.0, 1e9), (1.7, 3e8)])
def test_goal_takes_as_long_as_the_simulation(schedule, how, algorithm, ranks, slow, rate):
    found = record(schedule, algorithm, ranks, slow, rate, **how)
    seconds = interpreted(messages.goal(found, algorithm, ranks), NET._replace(rate=rate))
    assert seconds == pytest.approx(found.seconds, rel=2e-3)


@pytest.mark.skipif(not shutil.which("smpirun"), reason="no smpirun: apt install libsimgrid-dev")
def test_smpi_agrees_with_the_simulation(tmp_path, capsys):
    profile = [dict.fromkeys((layer.name for layer in layers), 1e-3) for net in [nets.build("alexnet-mini")]
               for layers in (net.backward_layers, net.layers)]
    (tmp_path / "p.json").write_text(json.dumps([profile[0], 0.0, 0.0, profile[1]]))
    replay.main(["--net", "alexnet-mini", "--profile", str(tmp_path / "p.json"), "--ranks", "3,4", "--rate", "100mbit",
                 "--slow", "1.3", "--steps", "6", "--export", str(tmp_path / "x"), "--json", str(tmp_path / "f.json")])
    rows = json.loads((tmp_path / "f.json").read_text())
    assert [row["ranks"] for row in rows] == [3] * 6 + [4] * 12
    assert all(abs(row["difference"]) < 0.01 for row in rows), rows
    assert len({row["replayed_seconds"] for row in rows}) > 6, "schedules differ"
    assert "18 rows" in capsys.readouterr().out
    assert (tmp_path / "x" / "split-ring-3" / "steps.goal").read_text().startswith("num_ranks 3\n")


def test_without_simgrid_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(replay.UserError, match="apt install libsimgrid-dev"):
        replay.main([])

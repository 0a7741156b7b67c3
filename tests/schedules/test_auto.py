"""The schedule that is chosen by a simulation: which one, when it is corrected, and that no number changes."""

import numpy as np
import pytest

import nets
from mpilayer import Batch, MomentumSGD, make_schedule
from mpilayer.model.profile import Profile
from mpilayer.mpi.link_model import LinkModel
from mpilayer.schedules import auto
from tests.ranks import on_ranks

STEPS = auto.PROFILED + 2 * auto.TRIED + 3
UNMEASURED = {"bucket": 0, "chunk": None, "progress": "kernel"}


def trained(ranks, schedule, steps=STEPS, link=None, taken=None, **settings):
    """(a schedule after so many steps, what it said): `link` is what it takes for the link, and `taken` {schedule:
    seconds} what it takes for the times of steps.
    """
    net, said = nets.build("alexnet-mini", classes=10, shape=(8, 8, 1)), []
    made = make_schedule(schedule, net, ranks, MomentumSGD(net, 0.01, momentum=0.9), say=said.append,
                         **{**UNMEASURED, **settings})
    if link:
        made.channel.settings = made.channel.settings._replace(link=link)
    if taken:
        made.channel.trace.period = lambda: taken[made.name]
    for t in range(steps):
        x, y = net.example(3, np.random.default_rng([t, ranks.rank]))
        made.step(t, Batch(x, y, 3 * ranks.size))
    made.drain()
    made.channel.close()
    return made, said


@on_ranks(2, 3)
def test_a_link_that_is_slow_chooses_what_hides_most_and_no_number_changes(ranks):
    slow = LinkModel(1e-6, 1e-6)
    made, said = trained(ranks, "auto", link=slow, reduction="ordered")
    assert made.predicted["oneshot"][0] > made.predicted["planned"][0]
    assert said[0].startswith("auto: ")
    assert f"auto: {made.name} takes" in said[-1] or "from here on" in said[-1]
    other, _ = trained(ranks, "oneshot", reduction="ordered")
    assert made.net.weights_sha256() == other.net.weights_sha256()
    assert len(set(ranks.gather((made.name, made.seen)))) == 1


@on_ranks(2)
def test_a_wire_that_halves_cannot_be_sent_by_leaves_split_out(ranks):
    made, _ = trained(ranks, "auto", wire="topk")
    assert set(made.predicted) == {"layerwise", "oneshot", "planned"}
    made, _ = trained(ranks, "auto", wire="topk", progress="poll")
    assert set(made.predicted) == {"layerwise", "oneshot"}, "nothing overtakes where nothing starts meanwhile"


@on_ranks(2)
def test_a_plan_lets_messages_overtake_where_that_gains_something(ranks):
    cases = (("kernel", 2e-8, "need"), ("kernel", 1e-12, "backward"), ("poll", 2e-8, "backward"))
    for progress, per_byte, order in cases:
        made, said = trained(ranks, "planned", link=LinkModel(1e-6, per_byte), progress=progress)
        assert made.plan["order"] == made.channel.messages.order == order, (progress, per_byte)
        assert f"messages in the order of {'forward' if order == 'need' else 'backward'}" in said[-1]


@on_ranks(2)
def test_a_prediction_that_was_wrong_is_corrected_once(ranks):
    """Whatever is chosen takes a second; the next best is tried, and stays if it takes less."""
    for faster, end in ((0.5, "other"), (2.0, "first")):
        taken = dict.fromkeys(auto.KINDS, faster)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(auto.Auto, "_follow", _noting(names := []))
            made, said = trained(ranks, "auto", link=LinkModel(1e-6, 1e-6), taken=_Times(taken, names))
        assert names[0] == "layerwise"
        tried = names[1:3]
        assert len(set(tried)) == 2, "the best by prediction, then another"
        assert names[3:] == ([] if end == "other" else tried[:1])
        assert made.name == names[-1], said


@on_ranks(2)
def test_what_was_as_predicted_at_first_is_not_left_later(ranks):
    """The correction is made once: what comes after it would not be measured any more."""
    taken = iter([0.0, 1e9])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auto.Auto, "_follow", _noting(names := []))
        trained(ranks, "auto", link=LinkModel(1e-6, 1e-6), taken=_InTurn(taken))
    assert len(names) == 2, "layerwise, and what was chosen from its profile"


class _InTurn:
    """The times of steps, whatever the schedule."""

    def __init__(self, times):
        self.times = times

    def __getitem__(self, name):
        return next(self.times)


class _Times(dict):
    """The first schedule that is chosen takes a second, the others as long as was said."""

    def __init__(self, times, names):
        super().__init__(times)
        self.names = names

    def __getitem__(self, name):
        return 1.0 if name == self.names[1] else super().__getitem__(name)


def _noting(names, follow=auto.Auto._follow):
    def noted(self, name, chunk):
        names.append(name)
        follow(self, name, chunk)

    return noted


def test_a_profile_is_scaled():
    found = Profile({"a": 1.0}, 2.0, 3.0, {"a": 4.0})
    assert found.scaled(2).compute == 2 * found.compute == 20

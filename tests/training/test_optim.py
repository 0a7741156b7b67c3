"""Muon, and what is done about late gradients, against the published rules in float64 on one process."""

import numpy as np
import pytest

from mpilayer.base.errors import UserError
from mpilayer.training.optim import OPTIMIZERS, AdamW, MomentumSGD, Muon
from mpilayer.training.optim.muon import FIFTH_DEGREE, ROUNDS, matrices, orthogonal
from tests.ranks import on_ranks
from tests.schedules.test_schedules import apart, in_one_process, net_of, on_all_ranks, rate


def by_singular_values(x):
    """What the iteration makes of x, by a decomposition: its polynomial of each singular value."""
    left, values, right = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    values /= np.sqrt((values**2).sum())
    a, b, c = FIFTH_DEGREE
    for _ in range(ROUNDS):
        values = a * values + b * values**3 + c * values**5
    return left * values @ right


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (5, 40), (40, 5), (64, 64), (130, 70)])
def test_orthogonal_matrices(shape):
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    got, kept = orthogonal(x), x.copy()
    np.testing.assert_allclose(got, by_singular_values(x), atol=2e-4)
    np.testing.assert_array_equal(x, kept)
    values = np.linalg.svd(got, compute_uv=False)
    assert values.max() < 1.3
    assert np.median(values) > 0.6


def test_a_gradient_of_zeros_moves_nothing():
    assert not orthogonal(np.zeros((3, 4), np.float32)).any()


def test_which_matrices_there_are():
    found = matrices(net_of("transformer-mini").layers)
    assert not found["embedding"]
    assert not found["output"]
    assert [matrix.shape for matrix in found["1/qkv"]] == [(64, 192)]
    assert [matrix.shape for matrix in matrices(net_of("alexnet-mini").layers)["conv2"]][0][1] > 1
    assert not found["1/norm1"]


def muon_rule(net, momentum=0.8, decay=0.1):
    """rule(w, g, t) of the whole net."""
    found, state, others = matrices(net.layers), {}, [0.0, 0.0]

    def rule(w, g, t):
        others[:] = 0.9 * others[0] + 0.1 * g, 0.999 * others[1] + 0.001 * g**2
        first, second = others[0] / (1 - 0.9 ** (t + 1)), others[1] / (1 - 0.999 ** (t + 1))
        new = w - rate(t) * (first / (np.sqrt(second) + 1e-2) + decay * w)
        for name, (begin, _) in net.offsets.items():
            for matrix in found[name]:
                at = slice(begin + matrix.begin, begin + matrix.end)
                gradient = g[at].reshape(matrix.shape)
                velocity = state[at.start] = momentum * state.get(at.start, 0.0) + gradient
                step = by_singular_values(momentum * velocity + gradient) * 0.2 * np.sqrt(max(matrix.shape))
                new[at] = w[at] * (1 - rate(t) * decay) - rate(t) * step.reshape(-1)
        return new

    return rule


def muon(net, **more):
    return Muon(net, rate, momentum=0.8, epsilon=1e-2, weight_decay=0.1, **more)


@on_ranks(1, 3)
def test_muon_equals_one_process(ranks):
    for kind in ("alexnet-mini", "transformer-mini"):
        oracle = in_one_process(kind, muon_rule(net_of(kind)))
        for name, settings in (("layerwise", {}), ("oneshot", {}), ("planned", {"chunk": 4096}), ("ps", {})):
            assert apart(oracle, on_all_ranks(ranks, kind, name, muon, **settings), kind) < 2e-3, (kind, name)


def test_muon_wants_whole_layers():
    net = net_of("alexnet-mini")
    with pytest.raises(UserError, match=r"muon \| conv1 \| a part of a layer"):
        muon(net).over([type("Part", (), {"name": "conv1", "w": net.layers[0].w[:5]})])


def predicted(optimizer_rule, delay):
    """Weights w that see every gradient late, and gradients taken at w + delay (w - w_before), as SpecTrain has it."""
    state = {"w": None, "waiting": []}

    def apply(g, t):
        before, state["w"] = state["w"], optimizer_rule(state["w"], g, t)
        return state["w"] + delay * (state["w"] - before)

    def rule(w, g, t):
        state["w"] = w if state["w"] is None else state["w"]
        state["waiting"].append((g, t))
        return apply(*state["waiting"].pop(0)) if len(state["waiting"]) > delay else w

    def end():
        for g, t in state["waiting"]:
            apply(g, t)
        return state["w"]

    return rule, end


@on_ranks(2)
def test_weights_are_predicted(ranks):
    def momentum(state):
        def rule(w, g, t):
            state[0] = 0.8 * state[0] + rate(t) * (g + 0.1 * w)
            return w - state[0]
        return rule

    for delay in (1, 3):
        rule, end = predicted(momentum([0.0]), delay)
        oracle = in_one_process("alexnet-mini", rule)
        oracle.weights[:] = end()

        def sgd(net):
            return MomentumSGD(net, rate, momentum=0.8, weight_decay=0.1, weight_prediction=True)

        found = on_all_ranks(ranks, "alexnet-mini", "delayed", sgd, {"delay": delay})
        assert apart(oracle, found, "alexnet-mini") < 1e-4, delay
        plain = on_all_ranks(ranks, "alexnet-mini", "delayed", lambda net: MomentumSGD(
            net, rate, momentum=0.8, weight_decay=0.1), {"delay": delay})
        assert apart(oracle, plain, "alexnet-mini") > 1e-2, "the test could not see prediction"


@on_ranks(2)
def test_every_optimizer_predicts(ranks):
    """With a delay of none it changes nothing; a delay changes it."""
    for kind in OPTIMIZERS.values():
        def of(predicts, kind=kind):
            return lambda net: kind(net, rate, weight_prediction=predicts)

        alike = [on_all_ranks(ranks, "alexnet-mini", "delayed", of(it), {"delay": 0}).weights for it in (True, False)]
        np.testing.assert_array_equal(*alike)
        late = [on_all_ranks(ranks, "alexnet-mini", "delayed", of(it), {"delay": 1}).weights for it in (True, False)]
        assert (late[0] != late[1]).any()


def test_two_ways_to_move_weights_ahead_are_one_too_many():
    with pytest.raises(UserError, match="momentum_correction and weight_prediction both"):
        AdamW(net_of("alexnet-mini"), 0.1, momentum_correction=True, weight_prediction=True)

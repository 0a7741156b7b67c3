"""What of a top-k message is not to be trusted, and layers too large for it."""

from types import SimpleNamespace

import numpy as np
import pytest

import mpilayer
from mpilayer.base.errors import UserError
from mpilayer.compression.topk import TopK
from tests.ranks import on_ranks


@on_ranks(2)
def test_a_position_outside_is_an_error_that_names_layer_and_rank(ranks):
    parameters = mpilayer.Parameters({"a": np.zeros(40, np.float32)})
    for wrong in (-1, 40, 2**31 - 1):
        with mpilayer.GradientQueue(ranks, parameters, wire="topk", top_share=0.1, progress="poll") as queue:
            payload = queue.slots[0].payload
            queue.gradient("a", 0)[...] = 1
            queue.post(0, "a")
            queue.wait(lambda q=queue: q.quiet, "a")
            received, begin = payload.home["a"]
            right = received[1, begin]
            received[1, begin] = wrong
            with pytest.raises(UserError, match=r"^a \| rank 1 sent positions outside 0\.\.39"):
                list(queue.settle("a", up_to=0))
            received[1, begin] = right
            list(queue.settle("a", up_to=0))


def test_a_layer_that_int32_cannot_count_is_refused():
    layers = [SimpleNamespace(name="huge", g=SimpleNamespace(size=2**31))]
    with pytest.raises(UserError, match=r"^huge \| 2,147,483,648 numbers"):
        TopK().counts(layers)

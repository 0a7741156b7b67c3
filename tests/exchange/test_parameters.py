"""Arrays of the user's in flat memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kernels.layout import LINE
from mpilayer import Parameters

SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, max_side=9)


@given(st.lists(SHAPES, min_size=1, max_size=6))
def test_views_have_the_values_and_lie_in_one_memory(shapes):
    given = {f"w{n}": np.random.default_rng(n).standard_normal(shape, np.float32) for n, shape in enumerate(shapes)}
    parameters = Parameters(given)
    assert list(parameters) == list(given)
    for name, array in given.items():
        np.testing.assert_array_equal(parameters[name], array)
        assert np.shares_memory(parameters[name], parameters.weights)
        assert parameters[name].shape == array.shape
        assert parameters[name].ctypes.data % LINE == parameters.weights.ctypes.data % LINE
    begins = [parameters.offsets[name][0] for name in given]
    assert begins == sorted(begins, reverse=True), "what backward finishes first lies first"
    assert [layer.name for layer in parameters.backward_layers] == list(given)[::-1]


def test_assignments_change_the_memory():
    parameters = Parameters({"w": np.zeros((2, 3), np.float32)})
    view = parameters["w"]
    parameters["w"] -= np.float32(1)
    parameters["w"] = parameters["w"] * 2
    assert (view == -2).all()
    assert parameters["w"] is view


def test_not_contiguous():
    transposed = np.arange(6, dtype=np.float32).reshape(2, 3).T
    np.testing.assert_array_equal(Parameters({"w": transposed[::-1]})["w"], transposed[::-1])


ON_A_GPU = type("ndarray", (), {"__module__": "cupy._core.core", "dtype": np.dtype(np.float32)})()


@pytest.mark.parametrize(("array", "error", "message"), [
    (np.zeros(3), TypeError, r"w \| expected float32, got float64 \| try: array.astype"),
    (np.zeros(3, np.int32), TypeError, "got int32"),
    ([1.0, 2.0], TypeError, r"w \| expected a NumPy array of float32, got list"),
    (ON_A_GPU, TypeError, r"w \| expected a NumPy array of float32, got cupy\.ndarray"),
    (np.zeros((0, 3), np.float32), ValueError, r"w \| expected at least one number, got shape \(0, 3\)"),
])
def test_what_is_refused(array, error, message):
    with pytest.raises(error, match=message):
        Parameters({"w": array})


def test_nothing_at_all():
    with pytest.raises(ValueError, match="no parameters"):
        Parameters({})


@pytest.mark.parametrize("name", [1, None, ("w", 1)])
def test_names_are_strings(name):
    with pytest.raises(TypeError, match=r"parameters \| expected names that are strings, got .* of type"):
        Parameters({"w": np.zeros(1, np.float32), name: np.zeros(1, np.float32)})


def test_the_users_arrays_stay_as_they_are():
    mine = np.zeros(3, np.float32)
    Parameters({"w": mine})["w"] -= 1
    assert (mine == 0).all(), "copied, not moved"

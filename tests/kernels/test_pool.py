import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import kernels
from kernels.check import normals
from kernels.pool import check, ref
from kernels.pool.cases import CASES
from kernels.pool.geometry import axes
from tests.kernels.oracle import numeric_gradient

EPS = np.finfo(np.float32).eps
few = settings(max_examples=100, deadline=None)


def random(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def close(got, want, steps):
    """Equal up to the rounding of `steps` float32 operations on values as large as the largest."""
    np.testing.assert_allclose(got, want, rtol=0, atol=steps * EPS * np.abs(want).max())


@st.composite
def pools(draw):
    """(x shape, arguments) of a pooling that has an output."""
    size = st.integers(1, 9)
    shape = draw(st.tuples(st.integers(1, 2), size, size, st.sampled_from([1, 3, 16, 37])))
    window, stride = draw(st.tuples(*[st.integers(1, 5)] * 2)), draw(st.tuples(*[st.integers(1, 4)] * 2))
    padding = tuple(draw(st.tuples(*[st.integers(0, k - 1)] * 2)) for k in window)
    arguments = {"window": window, "stride": stride, "padding": padding, "ceil_mode": draw(st.booleans())}
    try:
        axes("test", shape, **arguments)
    except ValueError:
        assume(False)
    return shape, arguments


def check_max(x, **arguments):
    (_, y, y64), (_, index, index64), (_, dx, want) = check.max_passes(x, normals(1), **arguments)
    np.testing.assert_array_equal(y, y64)
    np.testing.assert_array_equal(index, index64)
    rows, columns = axes("test", x.shape, **arguments)
    close(dx, want, rows.window * columns.window)


def check_avg(x, **arguments):
    (_, y, y64), (_, dx, want) = check.avg_passes(x, normals(1), **arguments)
    rows, columns = axes("test", x.shape, **arguments)
    steps = rows.window * columns.window + 2
    terms = ref.avgpool2d(np.abs(x.astype(np.float64)), rows, columns)
    assert (np.abs(y - y64) <= steps * EPS * terms).all()
    close(dx, want, steps)


@few
@given(pools(), st.booleans())
def test_windows_are_where_the_definition_puts_them(pool, include):
    shape, arguments = pool
    both = axes("test", shape, **arguments, count_include_pad=include)
    each = zip(both, shape[1:3], arguments["window"], arguments["stride"], arguments["padding"], strict=True)
    for axis, size, window, stride, (before, after) in each:
        total = before + size + after

        def counts(o, size=size, window=window, stride=stride, before=before, total=total):
            if arguments["ceil_mode"]:  # unless the window before it reaches the end
                return (o - 1) * stride + window < total and o * stride < before + size
            return o * stride + window <= total

        assert [o for o in range(30) if counts(o)] == list(range(len(axis.start)))
        for o in range(len(axis.start)):
            taps = [o * stride - before + r for r in range(window)]
            inside = [i for i in taps if 0 <= i < size]
            padded = [i for i in taps if i < size + after]
            assert inside == list(range(axis.begin[o], axis.end[o]))
            assert axis.count[o] == len(padded if include else inside)


@few
@given(pools(), st.integers(0, 2**32))
def test_max_matches_the_reference_ties_included(pool, seed):
    shape, arguments = pool
    check_max(np.random.default_rng(seed).integers(-2, 2, shape).astype(np.float32), **arguments)


@few
@given(pools(), st.booleans(), st.integers(0, 2**32))
def test_avg_matches_the_reference(pool, include, seed):
    shape, arguments = pool
    check_avg(random(shape, seed), count_include_pad=include, **arguments)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases(case):
    x = random((min(case.shape[0], 2), *case.shape[1:]))
    check_kind = check_max if case.kind == "max" else check_avg
    check_kind(x, window=case.window, stride=case.stride, padding=case.padding, ceil_mode=case.ceil_mode)
    rows, columns = axes("test", x.shape, case.window, case.stride, case.padding, case.ceil_mode)
    assert (len(rows.start), len(columns.start)) == case.output


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("include", [False, True])
def test_gradients_by_finite_differences(ceil_mode, include):
    arguments = {"window": (3, 2), "stride": 2, "padding": ((1, 2), (1, 0)), "ceil_mode": ceil_mode}
    x = np.random.default_rng(0).permutation(2 * 5 * 4 * 3).reshape(2, 5, 4, 3).astype(np.float64)  # no ties
    rows, columns = axes("test", x.shape, **arguments, count_include_pad=include)
    y, index = ref.maxpool2d(x, rows, columns)
    dy = random(y.shape).astype(np.float64)
    dx = ref.maxpool2d_backward(dy, index, x.shape, rows, columns)
    numeric = numeric_gradient(lambda x: ref.maxpool2d(x, rows, columns)[0], x, dy)
    np.testing.assert_allclose(dx, numeric, atol=1e-6)
    dx = ref.avgpool2d_backward(dy, x.shape, rows, columns)
    numeric = numeric_gradient(lambda x: ref.avgpool2d(x, rows, columns), x, dy)
    np.testing.assert_allclose(dx, numeric, atol=1e-6)


def test_the_first_of_equals_wins_even_of_minus_infinities():
    for value in (0, -np.inf):
        x = np.full((1, 3, 3, 2), value, np.float32)
        y, index = kernels.maxpool2d(x, 2, stride=1, padding=1)
        np.testing.assert_array_equal(y, value)
        taps = [[3, 2, 2, 2], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
        np.testing.assert_array_equal(index[0, :, :, 1], taps)


def test_nan_beats_every_number_and_infinity_is_one():
    x = random((1, 5, 5, 19))
    x[0, 2, 2, 3], x[0, 2, 2, 4], x[0, 0, 0, 3], x[0, 4, 4, 3] = np.nan, np.inf, np.inf, np.inf
    check_max(x, window=3, stride=1, padding=1)
    y, _ = kernels.maxpool2d(x, 3, stride=1)
    assert np.isnan(y[..., 3]).all()
    assert (y[..., 4] == np.inf).all()
    assert np.isnan(kernels.avgpool2d(x, 3, stride=1)[..., 3]).all()
    assert np.isfinite(y[..., 5:]).all()


def test_the_largest_window():
    check_max(random((1, 17, 18, 5)), window=16, stride=1)
    with pytest.raises(ValueError, match="maxpool2d: window 16 x 17 has more than 256 taps"):
        kernels.maxpool2d(random((1, 17, 18, 5)), (16, 17), stride=1)


def test_global_average():
    x = random((2, 7, 5, 33))
    y = kernels.global_avgpool(x)
    close(y, x.astype(np.float64).mean((1, 2)), 40)
    dx = kernels.global_avgpool_backward(y, x.shape)
    close(dx, np.broadcast_to(y[:, None, None], x.shape).astype(np.float64) / 35, 2)


def test_non_contiguous_input():
    x = random((6, 5, 7, 2)).transpose(3, 2, 1, 0)
    packed = np.ascontiguousarray(x)
    y, index = kernels.maxpool2d(x, 3, stride=2)
    np.testing.assert_array_equal(y, kernels.maxpool2d(packed, 3, stride=2)[0])
    np.testing.assert_array_equal(kernels.avgpool2d(x, 3, stride=2), kernels.avgpool2d(packed, 3, stride=2))
    dy, taps = np.repeat(y, 2, 3)[..., ::2], np.repeat(index, 2, 3)[..., ::2]
    np.testing.assert_array_equal(kernels.maxpool2d_backward(dy, taps, x.shape, 3, stride=2),
                                  kernels.maxpool2d_backward(y, index, x.shape, 3, stride=2))


def test_out_is_written_and_returned():
    x, options = random((2, 9, 8, 17)), {"stride": 2, "padding": 1}
    y, index = kernels.maxpool2d(x, 3, **options)
    out = np.full_like(y, np.nan), np.full_like(index, 9)
    assert all(a is b for a, b in zip(kernels.maxpool2d(x, 3, **options, out=out), out, strict=True))
    np.testing.assert_array_equal(out[0], y)
    np.testing.assert_array_equal(out[1], index)
    for function, arrays in ((kernels.maxpool2d_backward, (y, index, x.shape, 3)), (kernels.avgpool2d, (x, 3)),
                             (kernels.avgpool2d_backward, (y, x.shape, 3))):
        want = function(*arrays, **options)
        out = np.full_like(want, np.nan)
        assert function(*arrays, **options, out=out) is out
        np.testing.assert_array_equal(out, want)
    for function, arrays in ((kernels.global_avgpool, (x,)), (kernels.global_avgpool_backward, (x[:, 0, 0], x.shape))):
        want = function(*arrays)
        out = np.full_like(want, np.nan)
        assert function(*arrays, out=out) is out
        np.testing.assert_array_equal(out, want)


X = random((1, 4, 4, 3))
DY = random((1, 2, 2, 3))
INDEX = np.zeros(DY.shape, np.uint8)


@pytest.mark.parametrize(("operation", "arguments", "options", "message"), [
    ("maxpool2d", (X.astype(np.float64), 2), {}, r"x must be .*float32( or bfloat16)?, got \(1,4,4,3\) float64"),
    ("maxpool2d", (X[0], 2), {}, r"x must be .*got \(4,4,3\)"),
    ("maxpool2d", (X[:0], 2), {}, r"x \(0,4,4,3\) is empty"),
    ("maxpool2d", (X, 0), {}, "window must be"),
    ("maxpool2d", (X, 2), {"stride": 0}, "stride must be"),
    ("maxpool2d", (X, 2), {"padding": 2}, "must be smaller than window"),
    ("maxpool2d", (X, (2, 3)), {"padding": ((0, 2), (0, 0))}, "must be smaller than window"),
    ("maxpool2d", (X, 5), {}, r"x of \(4, 4\) pixels with window \(5, 5\).* leaves an output of \[0, 0\]"),
    ("avgpool2d", (X, 6), {"ceil_mode": True}, r"window \(6, 6\).* leaves an output of \[0, 0\]"),
    ("avgpool2d", (X.astype(np.int32), 2), {}, "got .*int32"),
    ("maxpool2d_backward", (DY, INDEX, (1, 5, 6, 3), 2), {}, r"dy must be \(1, 2, 3, 3\) .*got \(1,2,2,3\)"),
    ("maxpool2d_backward", (DY, INDEX[:, :1], X.shape, 2), {}, r"index \(1,1,2,3\) and dy \(1,2,2,3\)"),
    ("maxpool2d_backward", (DY, INDEX.astype(int), X.shape, 2), {}, "index must be .*uint8, got"),
    ("maxpool2d_backward", (DY, INDEX + np.uint8(4), X.shape, 2), {}, "index names tap 4 of a window of 4"),
    ("maxpool2d_backward", (DY, INDEX, (4, 4, 3), 2), {}, "x_shape must be four positive sizes"),
    ("avgpool2d_backward", (DY, (1, 4, 4, 2), 2), {}, r"dy must be \(1, 2, 2, 2\)"),
    ("avgpool2d_backward", (DY, (1, 4, 0, 3), 2), {}, "x_shape must be four positive sizes"),
])
def test_errors_name_the_operation_and_the_shapes(operation, arguments, options, message):
    with pytest.raises(ValueError, match=f"^{operation}: .*{message}"):
        getattr(kernels, operation)(*arguments, **{"stride": 2, **options})


def test_errors_of_the_global_average():
    with pytest.raises(ValueError, match="^global_avgpool: x must be"):
        kernels.global_avgpool(X[0])
    with pytest.raises(ValueError, match=r"^global_avgpool_backward: dy must be \(1, 3\) .*got \(1,4\)"):
        kernels.global_avgpool_backward(random((1, 4)), X.shape)


SAME = random((1, 4, 4, 3))
SAME_INDEX = np.zeros(SAME.shape, np.uint8)


@pytest.mark.parametrize(("operation", "arguments", "out", "message"), [
    ("maxpool2d", (X, 1), X.copy(), "must be a pair of arrays, got ndarray"),
    ("maxpool2d", (X, 1), (X, SAME_INDEX), "must not overlap"),
    ("maxpool2d", (X, 1), (X.copy(), SAME), r"must be a .* uint8 array of shape \(1, 4, 4, 3\)"),
    ("maxpool2d", (X, 1), (SAME, SAME.view(np.uint8).reshape(-1)[:48].reshape(SAME.shape)), "must not overlap"),
    ("maxpool2d_backward", (SAME, SAME_INDEX, X.shape, 1), SAME, "must not overlap"),
    ("maxpool2d_backward", (SAME, SAME_INDEX, X.shape, 1), X[0], "must be .* float32 array of shape"),
    ("avgpool2d", (X, 1), X, "must not overlap"),
    ("avgpool2d", (X, 1), X.astype(np.float64), "must be .* float32 array of shape"),
    ("avgpool2d_backward", (SAME, X.shape, 1), SAME, "must not overlap"),
    ("global_avgpool", (X,), np.empty((1, 4), np.float32), r"must be .* of shape \(1, 3\)"),
    ("global_avgpool", (X,), X.reshape(16, 3)[:1], "must not overlap"),
    ("global_avgpool_backward", (SAME[:, 0, 0], X.shape), SAME, "must not overlap"),
])
def test_outputs_that_do_not_fit_are_refused(operation, arguments, out, message):
    options = {} if operation.startswith("global") else {"stride": 1}
    with pytest.raises(ValueError, match=f"^\\w+: out {message}"):
        getattr(kernels, operation)(*arguments, **options, out=out)


def test_rows_with_nan_and_rows_without_meet_in_a_window():
    for h, w in np.ndindex(5, 5):
        x = random((2, 5, 5, 18), 5 * h + w)
        x[1, h, w, 3], x[1, h, w, 16] = np.nan, -np.nan
        check_max(x, window=3, stride=2, padding=1)
        check_max(x, window=(2, 4), stride=1)


# PyTorch as the oracle

GRID = [(size, window, stride, padding) for size in range(1, 10) for window in range(1, 6) for stride in range(1, 6)
        for padding in range(window // 2 + 1)]
# Outputs of torch.nn.functional.max_pool2d and avg_pool2d with ceil_mode, which agree, 0 where they refuse, for GRID in
# PyTorch 2.13.0: what test_values_are_those_of_pytorch found, which compares all values where PyTorch is installed.
SIZES = (
    "11111021111111101011111110020120111111110010010110111112111113121111110212111111013012112111111002012012111111"
    "32111242212111113121211110241231221121110130121121121114221135232212112423221211135123122122112024123122122112"
    "53221463322221235232222122462342232221221351231231221226322257342322224634232222357234233222222246234223222222"
    "74322684433222257343322224683452332232223572342332232228432279453323226845332322579345334233222468345234233222"
    "953328a55343322794534332268a456344333223579345334233223"
)


def torch_sizes():
    """The digits of SIZES, from PyTorch."""
    import torch

    found = []
    for size, window, stride, padding in GRID:
        try:
            y = torch.nn.functional.max_pool2d(torch.zeros(1, 1, size, size), window, stride, padding, ceil_mode=True)
            found.append(f"{y.shape[-1]:x}")
        except RuntimeError:
            found.append("0")
    return "".join(found)


def outputs(size, window, stride, padding):
    """Windows along an axis, 0 if none fits."""
    try:
        return kernels.pool2d_shape((1, size, size, 1), window, stride=stride, padding=padding, ceil_mode=True)[1]
    except ValueError:
        return 0


def test_a_last_window_that_would_begin_in_the_padding_is_dropped_as_by_pytorch():
    assert "".join(f"{outputs(*place):x}" for place in GRID) == SIZES


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("kind", ["max", "average of the padded", "average"])
def test_values_are_those_of_pytorch(kind, ceil_mode):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; its sizes are compared above")
    assert torch_sizes() == SIZES
    for size, window, stride, padding in GRID:
        if outputs(size, window, stride, padding):
            x = random((1, size, size, 2), seed=size)
            there = torch.tensor(x).permute(0, 3, 1, 2)
            arguments = {"stride": stride, "padding": padding, "ceil_mode": ceil_mode}
            try:
                if kind == "max":
                    want = torch.nn.functional.max_pool2d(there, window, **arguments)
                    got, _ = kernels.maxpool2d(x, window, **arguments)
                else:
                    include = {"count_include_pad": kind != "average"}
                    want = torch.nn.functional.avg_pool2d(there, window, **arguments, **include)
                    got = kernels.avgpool2d(x, window, **arguments, **include)
            except (RuntimeError, ValueError):
                assert not ceil_mode
                continue
            close(got, want.permute(0, 2, 3, 1).numpy(), window**2 + 2)

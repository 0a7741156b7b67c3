import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels.check import normals
from kernels.matmul import few_rows, packed, ref
from kernels.matmul.cases import CASES
from kernels.matmul.check import FLAGS, passes_of
from tests.kernels.oracle import all_close, close, random


def check(some, shapes, flags):
    a, b = map(some, shapes)
    close(kernels.matmul(a, b, transpose_a=flags[0], transpose_b=flags[1]),
          ref.matmul(a.astype(np.float64), b.astype(np.float64), *flags))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases(case):
    all_close(passes_of(case, normals()))


@settings(max_examples=120, deadline=None)
@given(st.sampled_from([(), (1,), (3,), (2, 2)]), st.tuples(*[st.integers(1, 150) | st.integers(1, 20)] * 3),
       st.sampled_from(FLAGS), st.integers(0, 2**32))
def test_matches_the_reference(batch, sizes, flags, seed):
    (M, N, K), rng = sizes, np.random.default_rng(seed)
    shapes = [(*batch, *(size[::-1] if flag else size)) for size, flag in zip(((M, K), (K, N)), flags, strict=True)]
    check(lambda shape: rng.random(shape, np.float32), shapes, flags)


LARGE = {"several rows of blocks": (3 * packed.ROWS + 5, 70, 40), "several sums": (90, 40, 2 * few_rows.SUMMED + 3),
         "several blocks of weights": (70, 1100, few_rows.SUMMED), "crowded rows": (300, 50, 1024),
         "crowded columns": (300, 1024, 60), "many channels, few columns": (130, 2048, 24),
         "more channels than a block": (1100, 33, 300)}


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("sizes", LARGE.values(), ids=LARGE)
def test_blocks(sizes, flags):
    """Whole numbers, exact in float32: a block left out or done twice shows."""
    (M, N, K), rng = sizes, np.random.default_rng(0)
    shapes = [size[::-1] if flag else size for size, flag in zip(((M, K), (K, N)), flags, strict=True)]
    check(lambda shape: rng.integers(-4, 5, shape).astype(np.float32), shapes, flags)


def test_out_and_views():
    a, b = random((2, 5, 7)), random((2, 7, 3), 1)
    out = np.full((2, 5, 3), np.nan, np.float32)
    assert kernels.matmul(a, b, out=out) is out
    np.testing.assert_array_equal(kernels.matmul(np.asfortranarray(a), b), out)
    np.testing.assert_array_equal(kernels.matmul(a.swapaxes(1, 2), b, transpose_a=True), out)


A, B = random((2, 5, 7)), random((2, 7, 3))


@pytest.mark.parametrize(("arrays", "options", "message"), [
    ((A, B.astype(np.float64)), {}, r"b must be a non-empty float32( or bfloat16)? array, got \(2,7,3\) float64"),
    ((A[0], B), {}, r"a \(5,7\) and b \(2,7,3\) must be matrices, or batches of as many"),
    ((A[:1], B), {}, r"a \(1,5,7\) and b \(2,7,3\) must be matrices"),
    ((A[0, 0], B[0, 0]), {}, r"a \(7\) and b \(3\) must be matrices"),
    ((A, B), {"transpose_a": True}, r"must agree in K, with transpose_a=True and transpose_b=False"),
    ((A, B), {"transpose_b": True}, r"a \(2,5,7\) and b \(2,7,3\) must agree in K"),
    ((A, B), {"out": np.empty((2, 3, 5), np.float32)}, r"out must be .* of shape \(2, 5, 3\)"),
])
def test_errors_name_the_operation_and_the_shapes(arrays, options, message):
    with pytest.raises(ValueError, match=f"^matmul: .*{message}"):
        kernels.matmul(*arrays, **options)

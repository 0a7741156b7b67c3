"""Means of JAX gradients against NumPy."""

import re

import numpy as np
import pytest

pytest.importorskip("jax")

import jax

import mpilayer.jax
from mpilayer.base.errors import AgreedError, UserError
from tests.ranks import TOP, environment, mpiexec, on_ranks, python

PLAIN = {"progress": "poll", "bucket": 0, "chunk": None}


def gradients(t, rank):
    """A pytree with dictionaries, lists and a scalar."""
    rng = np.random.default_rng([t, rank])
    return {"dense": [jax.numpy.array(rng.normal(size=shape), "float32") for shape in ((3, 5), 5)],
            "half": jax.numpy.array(rng.integers(-4, 4, (2, 2)), "bfloat16"),
            "scale": jax.numpy.array(rng.normal(), "float32")}


@on_ranks(1, 3)
def test_means_are_those_of_delay_steps_ago(ranks):
    for delay in (0, 1, 2):
        averages = mpilayer.jax.Averages(delay=delay, ranks=ranks, **PLAIN)
        for t in range(5):
            found = averages(gradients(t, ranks.rank))
            if t < delay:
                assert found is None
                continue
            everyone = [jax.tree_util.tree_leaves(gradients(t - delay, rank)) for rank in range(ranks.size)]
            own = gradients(t, ranks.rank)
            assert jax.tree_util.tree_structure(found) == jax.tree_util.tree_structure(own)
            for leaf, *parts in zip(jax.tree_util.tree_leaves(found), *everyone, strict=True):
                assert (leaf.shape, leaf.dtype) == (parts[0].shape, parts[0].dtype)
                mean = np.mean([np.asarray(part, np.float64) for part in parts], axis=0)
                bound = 2.0 ** -8 if leaf.dtype == "bfloat16" else 1e-6
                np.testing.assert_allclose(np.asarray(leaf, np.float64), mean, rtol=bound, atol=1e-6)
        averages.close()


@on_ranks(2)
def test_mistakes_are_named(ranks):
    averages = mpilayer.jax.Averages(ranks=ranks, **PLAIN)
    with pytest.raises(UserError, match=r"\['a'\] \| expected float32, bfloat16 or float16, got int32"):
        averages({"a": jax.numpy.arange(3, dtype="int32")})
    with pytest.raises(AgreedError, match="same model on every rank"):
        averages({"a": jax.numpy.ones(3 + ranks.rank)})
    averages({"a": jax.numpy.ones(3)})
    with pytest.raises(UserError, match="another structure"):
        averages({"b": jax.numpy.ones(3)})
    averages.close()
    with pytest.raises(UserError, match="delay -1 | expected"):
        mpilayer.jax.Averages(delay=-1)


def test_the_example_learns():
    done = mpiexec(2, TOP / "examples" / "jax_mlp.py", "--epochs", 4)
    assert done.returncode == 0, done.stderr
    assert float(re.findall(r"test accuracy ([\d.]+)%", done.stdout)[-1]) > 85


def test_without_jax_it_says_what_to_install():
    done = python("import sys; sys.modules['jax'] = None\nimport mpilayer.jax", environment())
    assert done.stderr.splitlines()[-1].endswith("JAX is not installed | try: pip install 'mpilayer[jax]'")

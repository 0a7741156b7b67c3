"""Means of JAX gradients over the ranks, outside of jit.

    grads = mpilayer.jax.average(grads, delay=1)       # of one step ago; None in the first
"""

import numpy as np

try:
    import jax
except ModuleNotFoundError as error:
    if error.name != "jax":
        raise
    raise ModuleNotFoundError("JAX is not installed | try: pip install 'mpilayer[jax]'", name="jax") from None

from mpilayer.base.errors import UserError
from mpilayer.exchange.gradient_queue import GradientQueue
from mpilayer.exchange.parameters import Parameters
from mpilayer.mpi.agreement import compare
from mpilayer.mpi.ranks import ranks_of_world

__all__ = ["Averages", "average"]


def _named(tree):
    """({path: leaf}, structure) of a pytree."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path) or "it": leaf for path, leaf in leaves}, structure


class Averages:
    """Means over the ranks of gradients of one model, `delay` steps late: averages(grads).

    delay      steps that a mean may be late: sums travel while the next steps are computed
    ranks      mpilayer.Ranks; default: those of MPI.COMM_WORLD
    settings   of mpilayer.GradientQueue, such as wire="bfloat16"
    """

    def __init__(self, *, delay=0, ranks=None, **settings):
        if not isinstance(delay, int) or delay < 0:
            raise UserError(f"delay {delay!r} | expected a whole number of steps")
        self.ranks, self.delay = ranks or ranks_of_world(), delay
        self.settings = {"progress": "thread"} | settings  # for XLA's kernels call nothing
        self.queue, self.like, self.step = None, None, 0

    def __call__(self, grads):
        """The mean of the gradients of `delay` calls ago, a pytree like `grads`; None in the first `delay` calls.

        grads   pytree of floating-point jax.Arrays; all ranks call this with the same structure

        Raises UserError for other dtypes or another structure than before, AgreedError if ranks differ.
        """
        leaves, structure = _named(grads)
        like = structure, {name: (leaf.shape, str(leaf.dtype)) for name, leaf in leaves.items()}
        if self.queue is None:
            self._open(like)
        if like != self.like:
            raise UserError("gradients of another structure, shape or dtype than before | expected those of one model"
                            " | try: mpilayer.jax.Averages() for each")
        for name, leaf in reversed(leaves.items()):
            self.queue.gradient(name, self.step)[...] = np.asarray(leaf)
            self.queue.post(self.step, name)
        self.step += 1
        return self._due(leaves, structure)

    def _due(self, leaves, structure):
        means = []
        for name, leaf in leaves.items():
            means += [jax.numpy.array(mean, leaf.dtype).reshape(leaf.shape)
                      for _, mean in self.queue.settle(name, self.step - 1 - self.delay)]
        return jax.tree_util.tree_unflatten(structure, means) if means else None

    def _open(self, like):
        for name, (_, dtype) in like[1].items():
            if not jax.numpy.issubdtype(dtype, jax.numpy.floating) or dtype == "float64":
                raise UserError(f"{name} | expected float32, bfloat16 or float16, got {dtype}")
        compare(self.ranks, {name: f"{shape} {dtype}" for name, (shape, dtype) in like[1].items()},
                "the same model on every rank")
        parameters = Parameters({name: np.zeros(shape, np.float32) for name, (shape, _) in like[1].items()})
        self.queue = GradientQueue(self.ranks, parameters, delay=self.delay, average=True, **self.settings)
        self.like = like

    def close(self):
        """Let go what is in flight and give back what MPI made; all ranks together."""
        if self.queue:
            for name in self.like[1]:
                for _ in self.queue.settle(name, self.step):
                    pass
            self.queue.close()
            self.queue = None


_averages = {}  # by structure and arguments


def average(grads, *, delay=0, **settings):
    """As Averages(delay=delay, **settings)(grads), of one model for each structure of gradients."""
    structure = jax.tree_util.tree_structure(grads)
    key = structure, tuple(leaf.shape for leaf in jax.tree_util.tree_leaves(grads)), delay, repr(settings)
    if key not in _averages:
        _averages[key] = Averages(delay=delay, **settings)
    return _averages[key](grads)

"""A training loop of your own, in NumPy, one step of delay: mpiexec -n 2 python examples/own_loop.py

Two dense layers learn to tell on which side of a parabola a point lies. Each rank has its own points; its gradients are
summed over the ranks while it goes on computing, and applied one step later.
"""

import numpy as np

import mpilayer

STEPS, POINTS, HIDDEN, RATE, DELAY = 400, 64, 32, 0.5, 1
rng = np.random.default_rng(0)
w1 = rng.standard_normal((2, HIDDEN), np.float32)
w2 = rng.standard_normal((HIDDEN, 1), np.float32) / np.float32(HIDDEN)


def points(rng):
    """(x (POINTS,2), 1 above the parabola and 0 below it (POINTS,1)), float32."""
    x = rng.uniform(-1, 1, (POINTS, 2)).astype(np.float32)
    return x, (x[:, 1:] > x[:, :1] ** 2).astype(np.float32)


with mpilayer.Ranks() as ranks:
    parameters = mpilayer.Parameters({"w1": w1, "w2": w2})
    parameters.broadcast(ranks)  # the first rank's weights are everyone's
    with mpilayer.GradientQueue(ranks, parameters, delay=DELAY, average=True, progress="poll") as queue:

        def settle(name, up_to):
            """Apply what has arrived of the steps not after `up_to`."""
            for _, gradient in queue.settle(name, up_to):
                parameters[name] -= RATE * gradient

        rng = np.random.default_rng(1 + ranks.rank)  # other points on each
        for step in range(STEPS):
            x, y = points(rng)
            settle("w1", up_to=step - 1 - DELAY)  # just before it is read
            h = np.maximum(x @ parameters["w1"], 0)
            settle("w2", up_to=step - 1 - DELAY)
            p = 1 / (1 + np.exp(-h @ parameters["w2"]))
            d = (p - y) / POINTS
            queue.gradient("w2", step)[...] = h.T @ d
            queue.post(step, "w2")  # on its way while the next line computes
            queue.gradient("w1", step)[...] = x.T @ (d @ parameters["w2"].T * (h > 0))
            queue.post(step, "w1")
        for name in parameters:  # what is still in flight
            settle(name, up_to=STEPS)
    right = ranks.total(np.array([float(((p > 0.5) == y).sum())]))[0] / (POINTS * ranks.size)
    if ranks.rank == 0:
        print(f"{right:.1%} of the last points are right")

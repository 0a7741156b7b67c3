"""A training loop of your own: NumPy computes, mpilayer sums the gradients while it does.

    mpiexec -n 2 python examples/own_loop.py
"""

import numpy as np

import mpilayer as ml

DELAY, STEPS, BATCH, RATE = 1, 400, 64, 0.1


def forward(parameters, x, settle):
    """Hidden activations and class probabilities; settle(name) brings a parameter up to date before it is read."""
    for name in ("w1", "b1"):
        settle(name)
    hidden = np.maximum(x @ parameters["w1"] + parameters["b1"], 0)
    for name in ("w2", "b2"):
        settle(name)
    logits = hidden @ parameters["w2"] + parameters["b2"]
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return hidden, exponentials / exponentials.sum(1, keepdims=True)


def backward(parameters, x, y, hidden, probabilities):
    """Yield (name, gradient of the mean loss over this rank's samples), last layer first."""
    dlogits = (probabilities - np.eye(10, dtype=np.float32)[y]) / len(y)
    yield "b2", dlogits.sum(0)
    yield "w2", hidden.T @ dlogits
    dhidden = (dlogits @ parameters["w2"].T) * (hidden > 0)
    yield "b1", dhidden.sum(0)
    yield "w1", x.T @ dhidden


def main():
    """Train a perceptron with one hidden layer on the handwritten digits."""
    rng = np.random.default_rng(0)  # the same seed on every rank, so the ranks start from the same weights
    with ml.Ranks() as ranks, ml.open_data("digits", ranks=ranks) as data:
        parameters = ml.Parameters({  # in the order in which forward reads them
            "w1": 0.1 * rng.standard_normal((64, 32), np.float32), "b1": np.zeros(32, np.float32),
            "w2": 0.1 * rng.standard_normal((32, 10), np.float32), "b2": np.zeros(10, np.float32)})
        with ml.GradientQueue(ranks, parameters, delay=DELAY, average=True) as queue:

            def settle(name, up_to):
                for _, gradient in queue.settle(name, up_to=up_to):  # the oldest first; waits for what is late
                    parameters[name] -= RATE * gradient

            own = np.random.default_rng([1, ranks.rank])  # other samples on every rank
            for step in range(STEPS):
                x, y = data.train.read(own.integers(len(data.train), size=BATCH // ranks.size))
                x = x.reshape(len(x), -1)
                hidden, p = forward(parameters, x, lambda name: settle(name, step - 1 - DELAY))  # noqa: B023
                for name, gradient in backward(parameters, x, y, hidden, p):
                    queue.gradient(name, step)[...] = gradient  # the buffer of this step: DELAY + 1 take turns
                    queue.post(step, name)  # starts the sum over the ranks, and returns at once
            for name in parameters:
                settle(name, STEPS)  # what is still in flight

        x, y = data.test.read(np.arange(len(data.test)))
        _, p = forward(parameters, x.reshape(len(x), -1), lambda name: None)
        if ranks.rank == 0:
            print(f"{ranks.size} ranks: {(p.argmax(1) == y).mean():.1%} of the test digits are right")


if __name__ == "__main__":
    main()

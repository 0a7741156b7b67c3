"""A dense net in JAX on several ranks: one line is mpilayer's, and a line gives each rank its own samples.

    mpiexec -n 2 python examples/jax_mlp.py --delay 1
"""

import argparse

import jax
import jax.numpy as jnp

import mpilayer
import mpilayer.jax
from mpilayer.data import batches, share


def logits(weights, x):
    """Of a net with one hidden layer."""
    hidden = jax.nn.relu(x.reshape(len(x), -1) @ weights["w1"] + weights["b1"])
    return hidden @ weights["w2"] + weights["b2"]


def loss(weights, x, y):
    """Mean cross-entropy."""
    return -jax.nn.log_softmax(logits(weights, x))[jnp.arange(len(y)), y].mean()


def main(data="digits", epochs=5, batch=64, delay=1, rate=0.1):
    """Train; the accuracy on the test part."""
    ranks, source = mpilayer.Ranks(), mpilayer.open_data(data)
    size, (one, two) = jnp.array(source.shape).prod().item(), jax.random.split(jax.random.key(0))
    weights = {"w1": jax.random.normal(one, (size, 64)) / size**0.5, "b1": jnp.zeros(64),
               "w2": jax.random.normal(two, (64, source.classes)) / 8, "b2": jnp.zeros(source.classes)}
    gradient = jax.jit(jax.grad(loss))
    update = jax.jit(lambda weights, grads: jax.tree.map(lambda w, g: w - rate * g, weights, grads))
    for epoch in range(epochs):
        for indices in batches(len(source.train), batch, seed=0, epoch=epoch):
            x, y = source.train.read(indices[share(batch, ranks.rank, ranks.size)])  # this rank's samples
            grads = mpilayer.jax.average(gradient(weights, x, y), delay=delay)
            weights = update(weights, grads) if grads else weights
        x, y = source.test.read(range(len(source.test)))
        accuracy = float((logits(weights, x).argmax(1) == y).mean())
        if ranks.rank == 0:
            print(f"epoch {epoch + 1}  test accuracy {accuracy:.2%}", flush=True)
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--delay", type=int, default=1)
    main(**vars(parser.parse_args()))

"""A convolution with batch normalization, one layer: its statistics belong to the state of the net."""

import math

import numpy as np

import kernels
from kernels.gpu import fetch
from nets.layer import Layer, conv_shape
from nets.memory import beside


class ConvNorm(Layer):
    """Convolution, batch normalization, and ReLU unless relu=False: (H,W,C) to (P,Q,channels).

    In training the statistics are those of this rank's samples, or with `batch.total` of all ranks' samples. For
    evaluation there are running means, of about the last ten steps and at first of all steps. Every rank has its own,
    which are averaged before they are used.
    """

    kind = "conv"
    MOMENTUM, EPS = 0.1, 1e-5

    def __init__(self, name, channels, window, *, stride=1, padding=0, dilation=1, groups=1, relu=True):
        super().__init__(name)
        self.channels, self.window, self.relu = channels, window, relu
        self.geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        self.state_size = 1 + 2 * channels

    def build(self, shape):
        """Declare weight (R,S,C/groups,K), gamma and beta (K,)."""
        made = conv_shape(self, shape)
        filters = (self.window, self.window, shape[2] // self.geometry["groups"], self.channels)
        self.declare("weight", filters, math.sqrt(2 / math.prod(filters[:3])))
        self.declare("gamma", (self.channels,), mean=1.0)
        self.declare("beta", (self.channels,))
        return made

    def bind_state(self, flat):
        """Its state: the number of steps, running means, running variances."""
        super().bind_state(flat)
        flat[1 + self.channels:] = 1

    @property
    def statistics(self):
        """Running means and variances (K,), and of how many steps (1,)."""
        mean, var = np.split(self.state[1:], 2)
        return {"running_mean": mean, "running_var": var, "steps": self.state[:1]}

    def forward(self, x, batch, add=None):
        """Convolve, normalize, add `add` if it is given, ReLU."""
        yield self
        self.x, w = x, self.weight
        self.convolved = kernels.conv2d(x, self.factor["weight"], **self.geometry)
        self.mean, self.var = self._statistics(batch) if batch.training else self._running()
        self.y = kernels.batchnorm(self.convolved, self.mean, self.var, w["gamma"], w["beta"], eps=self.EPS, add=add,
                                   relu=self.relu)
        return self.y

    def _statistics(self, batch):
        """(mean, var) of the batch; the running ones follow."""
        mean, var = kernels.batchnorm_statistics(self.convolved)
        self.count, self.total = self.convolved.size // self.channels, batch.total
        if batch.total:
            self.count, mean, var = self._of_all(mean, var)
        kernels.batchnorm_running(self.state, mean, var, count=self.count, momentum=self.MOMENTUM)
        return mean, var

    def _of_all(self, *statistics):
        """(samples, mean, var) over all ranks. The sums are made here: if this rank is on a GPU, it waits for that."""
        mean, var = (fetch(numbers).astype(np.float64) for numbers in statistics)
        sums = self.total(self.count * np.concatenate([[1], mean, var + mean**2]))
        count, mean, square = int(sums[0]), *np.split(sums[1:] / sums[0], 2)
        return count, *beside(self.convolved, mean, np.maximum(square - mean**2, 0))

    def _running(self):
        """(mean, var)."""
        running = self.state[1:].astype(np.float32)
        return running[:self.channels], running[self.channels:]

    def backward(self, dy):
        """Gradients of the weights first, since they are sent to other ranks. dy becomes the gradient before the ReLU.
        """
        g, statistics = self.gradient, (self.convolved, self.mean, self.var)
        kernels.batchnorm_wgrad(dy, *statistics, eps=self.EPS, y=self.y if self.relu else None, dgamma=g["gamma"],
                                dbeta=g["beta"])
        sums = g["gamma"], g["beta"]
        if self.total:
            here = np.concatenate([fetch(part) for part in sums]).astype(np.float64)
            sums = beside(dy, *np.split(self.total(here), 2))
        by_convolved = kernels.batchnorm_dgrad(dy, *statistics, self.weight["gamma"], *sums, eps=self.EPS,
                                               count=self.count)
        kernels.conv2d_wgrad(self.x, by_convolved, g["weight"].shape, out=g["weight"], **self.geometry)
        yield self
        if not self.input_gradient:
            return None
        return kernels.conv2d_dgrad(by_convolved, self.factor["weight"], self.x.shape, **self.geometry)

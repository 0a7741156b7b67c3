"""Training passes of a net on a GPU, recorded as CUDA graphs and replayed.

To launch a kernel costs this computer more time than many kernels take. So what a pass launches between two of its
yields becomes one graph, and the next pass of the same shapes launches graphs, within the same two generators:

    1st pass: as it is          2nd: each stretch is captured, then launched          from then on: graphs alone

A graph reads and writes where it did when it was captured. So its arrays are taken from a pool of memory of their own,
samples are copied to a fixed place, and what differs from step to step, seed and place in the effective batch, lies in
the GPU's memory.
"""

from dataclasses import replace

import numpy as np

from kernels import gpu

MOST = 2  # shapes of batches that are recorded: each keeps the memory of its activations
OTHERS = {"w", "weight", "rounded", "factor", "g", "gradient"}  # attributes of a layer that no pass leaves behind


class Forward:
    """A recorded forward pass, and the backward passes after it.

    x, y, seed, first   of the batch, in fixed places     stretches   [(graph, layer that is yielded after it)]
    backward            {slot of gradients: stretches}    left        [(block, its attributes)] after the pass
    """

    def __init__(self, batch):
        cupy = gpu.cupy()
        self.x, self.y = cupy.empty_like(batch.x), cupy.empty_like(batch.y)
        self.seed, self.first = (cupy.empty(1, np.uint64) for _ in range(2))
        self.stretches, self.backward, self.left = [], {}, []

    def take(self, batch):
        """Copy what differs from step to step to where the graphs read it; a Batch of these places."""
        for array, here in ((batch.x, self.x), (batch.y, self.y)):
            here[...] = array
        self.seed.fill(batch.seed)
        self.first.fill(batch.first)
        return replace(batch, x=self.x, y=self.y, seed=self.seed, first=self.first)


class Replay:
    """The passes of a net. `blocks`: all of it; `body`: the outermost; `flowing`: of its Memory; `losses`: of the net.
    """

    def __init__(self, body, blocks, losses, flowing):
        cuda = gpu.cupy().cuda
        self.body, self.blocks, self.losses, self.flowing = body, blocks, losses, flowing
        self.net, self.stream, self.pool = cuda.get_current_stream(), cuda.Stream(non_blocking=True), cuda.MemoryPool()
        self.seen, self.recorded, self.now = set(), {}, None

    def forward(self, batch):
        """As the body's own; for evaluation, and where ranks sum statistics in the middle of it, it is just that."""
        key = (batch.x.shape, batch.x.dtype, batch.y.shape, batch.size, *(loss.smoothing for loss in self.losses))
        able = batch.training and not batch.total
        if able and key in self.recorded:
            return self._again(self.recorded[key], batch)
        if not able or key not in self.seen or len(self.recorded) == MOST:
            self.seen.add(key)
            return self._as_it_is(batch)
        return self._first_time(key, batch)

    def backward(self, slot):
        """As the body's own, into a slot of gradients."""
        if self.now is None:
            return self.body.backward(None)
        if slot in self.now.backward:
            return self._replay(self.now.backward[slot])
        return self._record(self.body.backward(None), lambda stretches: self.now.backward.update({slot: stretches}))

    def _as_it_is(self, batch):
        self.now = None
        yield from self.body.forward(self.flowing(batch.x), batch)

    def _first_time(self, key, batch):
        self.now = step = Forward(batch)
        inside = step.take(batch)

        def keep(stretches):
            step.stretches, self.recorded[key] = stretches, step
            step.left = [(block, {name: value for name, value in vars(block).items() if name not in OTHERS})
                         for block in self.blocks]

        yield from self._record(self._body(inside), keep)
        gpu.cupy().get_default_memory_pool().free_all_blocks()  # the memory that the pass before needed

    def _body(self, batch):
        yield from self.body.forward(self.flowing(batch.x), batch)

    def _again(self, step, batch):
        if self.now is not step:  # blocks know the arrays of another pass
            for block, attributes in step.left:
                vars(block).update(attributes)
        self.now = step
        step.take(batch)
        yield from self._replay(step.stretches)

    def _record(self, passing, keep):
        """Capture a pass, stretch by stretch, and launch each; `keep` gets the stretches when all are there."""
        stretches, layer = [], self
        while layer is not None:
            graph, layer = self._capture(passing)
            stretches.append((graph, layer))
            graph.launch(self.net)
            if layer is not None:
                yield layer
        keep(stretches)

    def _capture(self, passing):
        """(graph, layer) of the next stretch of a pass; None for the layer after the last one."""
        with self.stream, gpu.cupy().cuda.using_allocator(self.pool.malloc):
            self.stream.begin_capture()
            try:
                layer = next(passing, None)
            finally:
                graph = self.stream.end_capture()
        return graph, layer

    def _replay(self, stretches):
        for graph, layer in stretches:
            graph.launch(self.net)
            if layer is not None:
                yield layer

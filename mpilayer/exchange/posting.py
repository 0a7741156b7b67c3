"""Which layers were posted in which step, and the errors of those who post or settle out of order."""

from collections import deque

import numpy as np

MOST = 1 << 62


class Posting:
    """Of `layers` (names in order of backward) in `slots` gradient buffers, each of which a later step uses again.

    in_order: each must be posted when its turn in `layers` comes.

    first      step that was posted, None before that              step       the last one, None before that
    unposted   its layers that have not been posted
    pending    {layer: steps that were posted and not settled, oldest first}
    """

    keeps = "first", "step", "unposted", "pending", "latest"

    def __init__(self, layers, slots, in_order=False):
        self.layers, self.slots, self.in_order = list(layers), slots, in_order
        self.first, self.step, self.unposted = None, None, set()
        self.pending, self.latest = {name: deque() for name in layers}, dict.fromkeys(layers)

    def add(self, step, name, mates=()):
        """A layer is posted, and with it begins a message of other layers, its `mates`. Raises RuntimeError if it must
        not be, TypeError if it is no step.
        """
        self.check_step(step)
        self.check_name(name, step)
        if step != self.step:
            self.begin(step)
        if name not in self.unposted:
            raise RuntimeError(f"step {step} | {name} | posted twice | expected once in a step, before it is settled")
        self.check_free(step, name)
        if self.in_order and name != (expected := self.missing()[0]):
            raise RuntimeError(f"step {step} | {name} | posted before {expected} | expected the order of backward,"
                               " which order=\"need\" counts on")
        for mate in mates:
            self.check_free(step, mate)
        self.unposted.remove(name)
        self.pending[name].append(step)
        self.latest[name] = step

    def check_step(self, step):
        """Raise TypeError unless it is a whole number that 64 bits hold."""
        if not isinstance(step, int | np.integer) or isinstance(step, bool) or not abs(step) < MOST:
            raise TypeError(f"step {step!r} | expected a whole number")

    def check_name(self, name, step):
        """Raise RuntimeError if no layer is called so."""
        if not isinstance(name, str) or name not in self.pending:
            raise RuntimeError(f"step {step} | no layer is called {name!r} | expected one of {', '.join(self.layers)}")

    def check_posted(self, step, name):
        """Raise RuntimeError if the sum of a layer's gradient of that step is not in any buffer, nor on its way."""
        self.check_step(step)
        latest = self.latest[name]
        known = latest is not None and max(self.first, latest - self.slots + 1) <= step <= latest
        if not known or (step not in self.pending[name] and step <= self.step - self.slots):
            raise RuntimeError(f"step {step} | {name} | waited for, but the last step posted is {latest}"
                               f" | expected one of the last {self.slots} steps")

    def begin(self, step):
        """Nothing of this step has been posted yet. Raises RuntimeError if its turn has not come."""
        if self.unposted:
            raise RuntimeError(f"step {step} | {', '.join(self.missing())} | not posted in step {self.step} yet"
                               f" | expected every layer to be posted in every step | try: finish({self.step})")
        if self.step is not None and (step < self.step or (self.slots > 1 and step != self.step + 1)):
            raise RuntimeError(f"step {step} | posted after step {self.step} | expected step {self.step + 1}")
        self.first = step if self.first is None else self.first
        self.step, self.unposted = step, set(self.layers)

    def in_use(self):
        """Numbers of the gradient buffers with sums that were posted and not settled."""
        return {step % self.slots for steps in self.pending.values() for step in steps}

    def missing(self):
        """Layers that have not been posted in this step, in order of backward."""
        return [name for name in self.layers if name in self.unposted]

    def check_free(self, step, name):
        """Raise RuntimeError if the layer's memory of that step is in use, TypeError if it is no step."""
        self.check_step(step)
        self.check_name(name, step)
        pending = self.pending[name]
        if step in pending:
            raise RuntimeError(f"step {step} | {name} | its gradient was posted and is in flight"
                               " | expected it to be complete before post()")
        if pending and pending[0] + self.slots <= step:
            raise RuntimeError(f"step {step} | {name} | posted while another sum in that memory is in flight"
                               " | expected it to be settled first: a delay of k needs k + 1 gradient buffers")

    def check_complete(self, name, blocking):
        """Raise RuntimeError if a layer would be waited for without end: others, `blocking` it, were not posted."""
        missing = [other for other in self.missing() if other in blocking]
        if missing:
            raise RuntimeError(f"step {self.step} | {name} | settled before {', '.join(missing)} was posted"
                               f" | expected every layer to be posted first | try: finish({self.step})")

    def check_settled(self):
        """Raise RuntimeError if something was posted and not settled."""
        left = [name for name in self.layers if self.pending[name]]
        if left:
            raise RuntimeError(f"step {self.pending[left[0]][0]} | {', '.join(left)} | closed before these sums were"
                               " settled | expected settle(name, up_to=...) of every layer before, or a drain")


def by_name(layers):
    """{name: layer}. Raises ValueError if two have one name."""
    found = {layer.name: layer for layer in layers}
    if len(found) < len(layers):
        names = [layer.name for layer in layers]
        raise ValueError(f"two layers are called {next(name for name in names if names.count(name) > 1)!r}"
                         " | expected a name of its own for each")
    return found

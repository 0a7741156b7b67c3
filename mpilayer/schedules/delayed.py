"""Layer-wise sums that are applied k steps late."""

from mpilayer.base.cli import Option, natural, natural_or
from mpilayer.base.errors import UserError
from mpilayer.base.state import State
from mpilayer.schedules import shards
from mpilayer.schedules.base import Schedule
from mpilayer.schedules.delay_policy import Adaptive, AfterWarmup, ByLayer, Constant


class DelayedUpdates(Schedule):
    """What layer-wise schedules share: sums that are settled `delay` steps late, just before the layer is read."""

    kept_sums = replicated = only_updates = True
    keeps, plan = ("policy", "weights_at_gradient"), {}  # arguments of the channel's open() that are chosen as it goes

    def __init__(self, net, queue, optimizer, policy):
        super().__init__(net, queue, optimizer)
        self.policy, self.delay = policy, policy.first
        self.open()

    def open(self):
        """Prepare the queue for this delay; nothing may be in flight."""
        self.channel.open(delay=self.delay, **{**self.queue_options, **self.plan})
        self.channel.place_gradients()
        compensated = self.optimizer.delay_compensation and self.delay
        copies = self.delay + 1 if compensated else 0
        self.weights_at_gradient = tuple(shards.copy(self.net)[0] for _ in range(copies))

    def step(self, t, batch):
        """Forward settles what is due, backward posts."""
        self.policy.before_step(self)
        delay = self.policy.next(t, self.delay)
        if delay != self.delay:
            self.change(delay)
        self.net.write_gradients_to(t % (self.delay + 1))
        for layer in self.net.forward(batch):
            with self.policy.waiting(self, layer, t):
                self.apply(layer, up_to=t - 1 - self.policy.lag(layer, self.delay))
            if self.weights_at_gradient:
                self.weights_at_gradient[t % (self.delay + 1)][layer.name][:] = layer.w
        for layer in self.net.backward():
            self.channel.post(t, layer)
        self.policy.after_step(self)

    def drain(self):
        """Apply everything in flight."""
        self.policy.before_drain(self)
        for layer in self.net.layers:
            self.apply(layer, up_to=float("inf"))
            self.optimizer.drained(layer)

    def change(self, delay):
        """Another delay from here on; every gradient is still applied once and in order."""
        self.drain()
        self.delay = delay
        self.open()

    def state(self):
        """As of all schedules, with the present delay."""
        return super().state() | State(values={"delay": self.delay})

    def restore(self, values):
        """As of all schedules, with the delay that there was."""
        self.delay = values["delay"]
        self.open()
        super().restore(values)

    def apply(self, layer, up_to):
        """Update the layer with its sums of all steps not after `up_to`, oldest first."""
        copies = self.weights_at_gradient
        for step, gradient in self.channel.settle(layer, up_to, as_sent=not copies):
            earlier = copies[step % (self.delay + 1)][layer.name] if copies else None
            late = self.policy.lag(layer, self.delay)
            self.optimizer.update(layer, gradient, step, late=late, weights_at_gradient=earlier)


class Delayed(DelayedUpdates):
    """Gradients k steps stale, hidden behind k steps of computing (Daily, Vishnu, Siegel: delayed updates).

        slot = t mod (k+1)                              k+1 gradient buffers
        for l = L..1: backward(l) into slot ; request[t, l] = Iallreduce(slot, l)
        in forward of step t+1+k, just before layer l reads w_l: Wait(request[t, l]) ; w_l -= lr * g_l(t) / P

    The first k steps after a start or a drain apply nothing; a drain applies what is in flight, oldest first. The
    learning rate is that of the step the gradient is from; momentum and weight decay act when it is applied.

    With `--delay layers` only layers whose sums do not arrive in time are late, by one step; what is needed first
    overtakes the rest.
    """

    options = (Option("delay", "steps a gradient is late, auto for as few as hide communication, or layers: one step,"
                      " those that need it", natural_or("auto", "layers"), 1, metavar="K"),
               Option("delay_warmup", "steps without delay at first", natural, 0, metavar="STEPS"))
    late = True

    def __init__(self, net, queue, optimizer, delay, delay_warmup):
        if delay == "layers":
            policy = ByLayer(net.layers)
            self.measured = ByLayer.SETTLED
            self.plan = {"order": "need" if queue.moves_while_computing else "backward"}
        elif delay == "auto":
            policy = Adaptive()
        else:
            policy = AfterWarmup(delay, delay_warmup) if delay_warmup else Constant(delay)
        super().__init__(net, queue, optimizer, policy)

    @classmethod
    def check(cls, ranks, delay, delay_warmup):
        """Raise UserError if the options do not go together."""
        if delay_warmup and isinstance(delay, str):
            raise UserError(f"--delay-warmup goes with a --delay of steps: {delay} begins without delay by itself")

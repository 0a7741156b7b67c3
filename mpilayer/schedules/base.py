"""What a schedule tells of itself."""

from mpilayer.base.state import State, restore_values
from mpilayer.exchange.gradient_queue import GradientQueue

CLIP_REFUSED = "the norm of a whole gradient is known only when parts of it are applied"
OWN_PACE = "ranks do not make their steps at the same time, so none may wait for another's samples"
HOST_ONLY = "what ranks send each other, they write and read themselves"


class Schedule:
    """The base of all schedules: when gradients are exchanged between the ranks, and when they are applied.

    A subclass has step(t, batch), which runs training step t, and drain(), after which nothing is in flight and all
    ranks have the same weights. It says of itself:

    channel         class of what it sends with: GradientQueue (sums), or Mailbox (messages between two ranks)
    options         Options; each is a keyword argument of the class, and an option of the command line
    wires           keys of COMPRESSORS that it can use; None: all of them
    wires_because   why it cannot use the others
    refuses         {option of an optimizer that it cannot go with: why}
    replicated      whether all ranks have the same weights at the end of each step
    only_updates    whether nothing but the optimizer's updates changes the net's weights: those then keep what products
                    read in bfloat16, too (Net.round_weights)
    late            whether it applies gradients that were taken at earlier weights
    asynchronous    whether a rank that is free takes the next part of an effective batch, whosever turn it is
    staleness       a Counter: how many updates old gradients were when they were applied; None if that is always none
    own_pace        whether no rank may wait for another in the midst of a step; those that are asynchronous never may
    host_only       why it cannot train a net on a GPU; an empty string if it can
    kept_sums       whether each step sums all gradients uncompressed, so that the link bounds its speed
    overlaps        whether sums travel while the net computes
    delay           steps that sums are late now
    period          steps from one exchange to the next
    measured        steps that it observes before it decides how to go on
    prediction      of the time of a step (mpilayer.model.step.Prediction), or None
    keeps           names of its attributes that decide its next steps, for checkpoints (mpilayer/base/state.py); None:
                    not known, and no checkpoint can be made

    It is made with a net (nets.Net, or what has the same layers, memory and generators), a channel that is not yet
    open, and an Optimizer; make_schedule does that.
    """

    channel, options, refuses, queue_options = GradientQueue, (), {}, {}
    wires, wires_because, host_only = None, "", ""
    asynchronous, own_pace, replicated, only_updates, late = False, False, False, False, False
    staleness, kept_sums, overlaps = None, False, True
    delay, period, measured, prediction = 0, 1, 0, None
    keeps = None

    def __init__(self, net, channel, optimizer):
        self.net, self.channel, self.optimizer = net, channel, optimizer
        self.choose_factors(net)

    @classmethod
    def choose_factors(cls, net):
        """Let products read what this schedule keeps up to date: weights in bfloat16, or the weights themselves."""
        if hasattr(net, "round_weights"):  # not all that has layers is a Net
            net.round_weights() if cls.only_updates else net.forget_rounded()

    def step(self, t, batch):
        """Run training step t on this rank's samples, a Batch."""
        raise NotImplementedError(f"{type(self).__name__} has no step(t, batch)")

    def drain(self):
        """Finish what is in flight: afterwards all ranks have the same weights."""
        raise NotImplementedError(f"{type(self).__name__} has no drain()")

    def rest(self):
        """Between two steps: wait until nothing is on its way that state() cannot hold. No number changes by it, unless
        the schedule is asynchronous: then this is a drain.
        """
        if self.asynchronous:
            self.drain()
        else:
            self.channel.complete()

    def state(self):
        """The State that the next steps depend on, between two steps, after rest(). Raises UserError if the schedule,
        or its optimizer, does not say what it keeps.
        """
        kept = [State.of(part, name, self.replicated) for name, part in self._parts().items()]
        weights = {"weights": self.net.weights}
        state = State(*((weights, {}) if self.replicated else ({}, weights)))
        for each in kept:
            state |= each
        return state

    def restore(self, values):
        """Go on from another schedule's state: its values. Its arrays are to be copied into those of state() then, and
        restored() to be called; all ranks call these together.
        """
        for name, part in self._parts().items():
            restore_values(part, values, name)

    def restored(self):
        """The arrays are in place."""
        self.choose_factors(self.net)
        self.channel.restored()

    def _parts(self):
        return {"schedule/": self, "optimizer/": self.optimizer, "channel/": self.channel}

    @classmethod
    def check(cls, ranks, **options):
        """Raise UserError if the options are out of range, or do not go together, on that many ranks."""

    @staticmethod
    def servers(**options):
        """How many ranks, the last ones, do not compute."""
        return 0

"""What a schedule tells of itself."""

from mpilayer.exchange.gradient_queue import GradientQueue

CLIP_REFUSED = "the norm of a whole gradient is known only when parts of it are applied"
HOST_ONLY = "what ranks send each other, they write and read themselves"


class Schedule:
    """step(t, batch) runs training step t; after drain() nothing is in flight and all ranks have the same weights.

    channel        class of what it sends with              options  Options that are its keyword arguments
    wires          compressors it can use, None for all, and `wires_because` it cannot use others
    refuses        {option it cannot go with: why}          late     whether it applies gradients of earlier weights
    asynchronous   ranks take the next part of a batch when they are free, whoever's it would have been
    staleness      Counter of how many updates old gradients were when applied, or None
    host_only      why it does not go with a net on a GPU, or an empty string
    kept_sums      each step it sums all gradients as they are, so that the link bounds its speed
    overlaps       whether sums travel while the net computes
    delay, period  steps that sums are late now, and steps from one exchange to the next
    measured       steps it observes before it decides how to go on           prediction   of a step's time, or None
    """

    channel, options, refuses = GradientQueue, (), {}
    wires, wires_because, host_only = None, "", ""
    asynchronous, late, staleness, kept_sums, overlaps = False, False, None, False, True
    delay, period, measured, prediction = 0, 1, 0, None

    def __init__(self, net, channel, optimizer):
        self.net, self.channel, self.optimizer = net, channel, optimizer

    @classmethod
    def check(cls, ranks, **options):
        """Raise UserError if the options are out of range, or do not go together, on so many ranks."""

    @staticmethod
    def servers(**options):
        """Ranks that do not compute, the last ones."""
        return 0

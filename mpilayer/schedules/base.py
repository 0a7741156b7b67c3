"""What a schedule tells of itself."""

from mpilayer.exchange.gradient_queue import Queue


class Schedule:
    """step(t, batch) runs training step t; after drain() nothing is in flight and all ranks have the same weights.

    traffic        what it sends with                       wires    what may travel, and `wires_because` nothing else
    takes          {option that belongs to it: its default} refuses  {option it cannot go with: why}
    asynchronous   ranks take the next part of a batch when they are free, whoever's it would have been
    workers        ranks that compute, the first ones       staleness   how many updates old gradients were, counted
    only_here      why it does not go with a net on a GPU, or an empty string
    """

    traffic = Queue
    takes, refuses = {}, {}
    wires, wires_because = None, ""
    only_here = ""
    asynchronous, staleness = False, None

    @staticmethod
    def servers(options):
        """Ranks that do not compute."""
        return 0

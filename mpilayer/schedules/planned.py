"""Layer-wise sums in the order in which the next forward needs them."""

from mpilayer.plan import Profile, earliest_due, predict
from mpilayer.schedules.layerwise import Layerwise

MEASURED = 3  # steps, after the first, that the plan is made from
PARTS = (1, 2, 4, 8)  # of a chunk that are tried


class Planned(Layerwise):
    """The same numbers as one-shot; messages that are needed early overtake large ones that can wait.

        for l = L..1: g_l = backward(l) ; the messages of layer l may go
        meanwhile: of the messages that may go, the one goes whose layer the next forward reads first
        next forward, just before layer l reads w_l: Wait(messages of l) ; w_l -= lr * g_l / P

    Collectives need one order on all ranks, so that choice cannot be made as the step goes. It is simulated from a
    profile of the first steps; rank 0's order is everyone's.
    """

    def __init__(self, net, queue, optimizer, options):
        super().__init__(net, queue, optimizer, options)
        self.seen, self.prediction = 0, None

    def step(self, t, batch):
        """As layer-wise; when the first steps have been measured, make the plan."""
        super().step(t, batch)
        self.seen += 1
        if self.seen == 1 + MEASURED:
            self.drain()
            self.rearrange()

    def rearrange(self):
        """Profile, simulate, and open the queue anew with the best size and order of messages."""
        ranks, durations = self.queue.ranks, self.queue.trace.durations()
        everyone = ranks.gather(durations)
        mean = {name: sum(each[name] for each in everyone) / ranks.size for name in durations}
        chunk, self.prediction = ranks.world.bcast(self._best(profile(self.net, mean)))
        self.queue.open(self.net, slots=1, chunk=chunk, order=self.prediction.order)

    def _best(self, times):
        """(size of a piece, Prediction) of the least seconds a step."""
        chunk = self.queue.settings.chunk
        found = {part: self._predicted(part, times) for part in sorted({chunk and chunk // parts for parts in PARTS})}
        return min(found.items(), key=lambda item: item[1].seconds)

    def _predicted(self, chunk, times):
        messages = self.queue.cut(self.net, self.queue.settings.bucket, chunk)

        def seconds(message):
            return self.queue.settings.network.share(4 * (message.end - message.begin), self.queue.settings.lanes)

        return predict(messages, times, seconds, earliest_due(messages, times, seconds))


def profile(net, seconds):
    """The Profile of a net, from what a Trace knows of the duration of its events."""
    return Profile({layer.name: seconds[f"backward {layer.name}"] for layer in net.backward_layers},
                   seconds["backward input"], seconds["forward input"],
                   {layer.name: seconds[f"update {layer.name}"] + seconds[f"forward {layer.name}"]
                    for layer in net.layers})

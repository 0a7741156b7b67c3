"""What of a run a checkpoint must have in common with it, and the options that ask for checkpoints."""

from mpilayer.base.cli import count, flag, folder
from mpilayer.base.errors import UserError
from mpilayer.data import DATA
from mpilayer.exchange.settings import AUTO
from mpilayer.storage.checkpoints import Checkpoints
from mpilayer.training.replicas import data_facts
from mpilayer.training.requests import EPOCH, Never, Requests, interval

SAME = ("batch", "seed", "precision", "reduction", "bucket", "chunk", "augment", "validation",
        "shuffle_block")  # beside the parts'
MAY_DIFFER = ("lr", "warmup", "epochs", "steps", "label_smoothing", "batch_statistics")  # which is said
KEEP = 2


def add_options(parser):
    """Add them."""
    parser.add_argument("--checkpoint", type=folder, metavar="DIR",
                        help="folder for checkpoints; SIGUSR1 and SIGTERM then end the run with one, and status 75")
    parser.add_argument("--checkpoint-every", type=interval, metavar="N", help="steps from one to the next, or seconds"
                        f" as in 600s, or {EPOCH} (default: {EPOCH})")
    parser.add_argument("--keep", type=count, metavar="K", help=f"newest checkpoints that stay (default: {KEEP})")
    parser.add_argument("--resume", action="store_true",
                        help="go on from the newest checkpoint that is whole, or begin if there is none")


def check(options):
    """Complete them. Raises UserError for those that go with --checkpoint, without it."""
    for name in ("checkpoint_every", "keep", "resume"):
        if getattr(options, name) and not options.checkpoint:
            raise UserError(f"{flag(name)} goes with --checkpoint | try: --checkpoint DIR")
    options.checkpoint_every = options.checkpoint_every or interval(EPOCH)
    options.keep = options.keep or KEEP


def identity(options, choices, net, data):
    """{name: text} of what decides the meaning of a checkpoint's numbers; `choices` are the Choices of parts."""
    same = {flag(name): getattr(options, name) for name in SAME}
    for choice in choices:
        same |= {flag(choice.name): getattr(options, choice.name)}
        same |= {flag(name): value for name, value in choice.keywords(options).items()}
    same |= {flag(name): getattr(options, name) for name in DATA.option_names()}
    facts = {"weights": net.weights.size, **data_facts(data)}
    del facts["data"]  # it may have moved
    return {name: str(value) for name, value in (same | facts).items()}


class Resuming:
    """The checkpoints of a run as its options say; all ranks make it.

    loaded    the Loaded checkpoint, or snapshot, from which it goes on, or None

    Raises AgreedError if they cannot be written, or if the newest is one of another run.
    """

    def __init__(self, ranks, options, choices, net, data, say, loaded=None):
        self.ranks, self.options, self.loaded, self.checkpoints = ranks, options, loaded, None
        self.made_of = choices, net, data, say
        if options.checkpoint:
            about = identity(options, choices, net, data)
            self.checkpoints = Checkpoints(ranks, options.checkpoint, options.keep, about, say)
            self.loaded = self.checkpoints.newest() if options.resume and not loaded else loaded
        self.run = self.loaded.of_this_rank()["run"] if self.loaded else {}

    def again(self, loaded):
        """Of the same run, which goes on from a Loaded, when other ranks have died; this is used no more."""
        if self.checkpoints:
            self.checkpoints.abandon()
        return Resuming(self.ranks, self.options, *self.made_of, loaded=loaded)

    def settings(self, settings):
        """The Settings with what was measured before, if there are as many ranks."""
        if not self.loaded or self.loaded.ranks != self.ranks.size:
            return settings
        return settings._replace(**{name: self.run["settings"][name] for name in settings.auto})

    def _now(self):
        """The options that may differ from those of a checkpoint."""
        return {flag(name): getattr(self.options, name) for name in MAY_DIFFER}

    def notes(self, settings):
        """What a checkpoint holds of options that may differ, and of Settings."""
        return {"settings": {name: getattr(settings, name) for name in AUTO},
                "options": self._now()}

    def said(self):
        """In words, from where the run goes on, and what is not as it was."""
        if not self.loaded:
            return []
        known = self.run["options"]
        lines = [f"{name} is {value}, and was {known[name]} so far" for name, value in self._now().items()
                 if known[name] != value]
        ranks = self.loaded.ranks
        of = f", of a run on {ranks} rank{'s' * (ranks > 1)}" if ranks != self.ranks.size else ""
        return [f"resumed after {self.run['step']} steps from {self.loaded.path}{of}", *lines]

    def requests(self, channel, workers, snapshots=None):
        """Requests on a channel, which moves messages while checkpoints are written, and of Snapshots if there are any.
        """
        if not self.checkpoints:
            return Never(snapshots)
        self.checkpoints.channel = channel
        return Requests(self.ranks, channel, self.options.checkpoint_every, workers, snapshots)

    def close(self):
        """Wait for the last one to be written, and give back what MPI made."""
        if self.checkpoints:
            self.checkpoints.finish()
            self.checkpoints.close()

"""How gradients travel, whatever the schedule."""

from typing import Any, NamedTuple

from mpilayer.base.errors import UserError
from mpilayer.compression import COMPRESSORS
from mpilayer.mpi.link_model import LinkModel
from mpilayer.mpi.progress import PROGRESS
from mpilayer.mpi.reductions import REDUCTIONS

AUTO = dict.fromkeys(("progress", "bucket", "chunk", "reduction"), "auto")
LANES = 2  # enough to hide the latency of one message behind the other
MOST_LANES = 16  # where nothing starts the next message while a kernel runs


class Settings(NamedTuple):
    """How gradients are sent.

    progress       which code calls MPI so that messages advance: "none", "poll" (the queue's post and settle),
                   "kernel" (also the kernels of this project, from inside), "thread"; "auto": to be measured
    bucket         bytes of float32 up to which neighbouring layers travel as one message; None: no limit; "auto"
    chunk          bytes of float32 from which on a layer is split into several messages; None: no limit; "auto"
    wire           what travels: a key of COMPRESSORS
    wire_options   {option of that compressor: its value}
    reduction      "native": summed by MPI_Allreduce; "ordered": summed in rank order, to the same bits however layers
                   are grouped into messages; "levels": in memory that the ranks of a node share, in rank order, and by
                   MPI_Allreduce between nodes; "nccl": among GPUs; "auto": levels where ranks share a node, between
                   several nodes if it is faster there
    lanes          most messages in flight at a time
    cuda_aware     whether MPI may be given memory of a GPU
    link           LinkModel: what a sum over the ranks costs, once that was measured

    As keyword arguments of GradientQueue and make_schedule, the compressor's options are given by their own names.
    """

    link: LinkModel = LinkModel(0.0, 0.0)
    progress: str = "poll"
    reduction: str = "native"
    wire: str = "float32"
    wire_options: Any = ()  # {option of the compressor: value}
    bucket: Any = 0
    chunk: Any = None
    cuda_aware: bool = False
    lanes: int = LANES

    @property
    def auto(self):
        """Names of the fields that are "auto"."""
        return {name for name in AUTO if getattr(self, name) == "auto"}

    def measured_as(self, other):
        """These, with what was measured for other Settings where they say "auto"."""
        found = {name: getattr(other, name) for name in self.auto}
        return self._replace(link=other.link, cuda_aware=other.cuda_aware, **found)


GIVEN = tuple(name for name in Settings._fields if name not in ("link", "cuda_aware", "wire_options"))


def one_of(what, name, known):
    """The name. Raises UserError if it is not known."""
    if name not in known:
        raise UserError(f"{what} {name!r} | expected one of {', '.join(known)}")
    return name


def _size(name, value):
    """Raise UserError unless it is a number of bytes, None or "auto"."""
    if value not in (None, "auto") and not (isinstance(value, int) and value >= (name == "chunk")):
        raise UserError(f"{name} {value!r} | expected a number of bytes, None for no limit, or \"auto\"")


def settings_of(given):
    """Settings from keyword arguments: its own but `link` and `cuda_aware`, and the compressor's. Raises UserError."""
    compressor = COMPRESSORS[one_of("wire", given.get("wire", "float32"), COMPRESSORS)]
    own = {option.name: option for option in compressor.options}
    for name in given:
        one_of("keyword argument", name, sorted({*GIVEN, *own}))
    one_of("reduction", given.get("reduction", "native"), ("auto", *REDUCTIONS))
    one_of("progress", given.get("progress", "poll"), ("auto", *PROGRESS))
    for name in ("bucket", "chunk"):
        _size(name, given.get(name))
    if given.get("lanes", 1) not in range(1, 1000):
        raise UserError(f"lanes {given['lanes']!r} | expected a whole number from 1 to 999")
    options = {name: option.checked(given[name]) for name, option in own.items() if name in given}
    return Settings(wire_options=options, **{name: given[name] for name in GIVEN if name in given})

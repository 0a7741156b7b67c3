"""The backend "mpi4py" of torch.distributed against the documented meaning of each collective, and gloo's weights."""

import contextlib
import socket

import pytest

pytest.importorskip("torch")

import torch
from torch import distributed
from torch.distributed import ReduceOp
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import mpilayer.torch  # noqa: F401 - it registers the backend
from mpilayer.base.errors import UserError
from tests.ranks import mpiexec, on_ranks
from tests.torch.models import backward, build, part_of, sgd

THREADS = "multiple"
DTYPES = torch.float32, torch.float64, torch.int64, torch.uint8, torch.bfloat16
REDUCTIONS = {ReduceOp.SUM: torch.sum, ReduceOp.PRODUCT: torch.prod, ReduceOp.MIN: torch.amin, ReduceOp.MAX: torch.amax,
              ReduceOp.AVG: torch.mean}


@contextlib.contextmanager
def group(backend="mpi4py", init_method="mpi://", **given):
    distributed.init_process_group(backend, init_method=init_method, **given)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def numbers(rank, shape=(3, 2), dtype=torch.float32):
    """Small whole numbers of a rank, which every dtype has."""
    return torch.randint(1, 4, shape, generator=torch.Generator().manual_seed(rank)).to(dtype)


def check(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@on_ranks(1, 3)
def test_reductions(ranks):
    rank, size = ranks.rank, ranks.size
    with group():
        assert (distributed.get_rank(), distributed.get_world_size(), distributed.get_backend()) == (
            rank, size, "mpi4py")
        for dtype in DTYPES if size < 4 else DTYPES[-1:]:
            every = torch.stack([numbers(r, (2 * size, 3), dtype) for r in range(size)])
            for op, function in REDUCTIONS.items():
                if op == ReduceOp.AVG and not dtype.is_floating_point:
                    continue
                expected = function(every.float() if dtype == torch.bfloat16 else every, dim=0).to(dtype)
                for layout in (every[rank].clone(), every[rank].t().contiguous().t()):
                    distributed.all_reduce(layout, op)
                    check(layout, expected)
                own = every[rank].clone()
                distributed.reduce(own, size - 1, op)
                check(own, expected if rank == size - 1 else every[rank])
                part = torch.empty(2, 3, dtype=dtype)
                distributed.reduce_scatter_tensor(part, every[rank].clone(), op)
                check(part, expected[2 * rank:2 * rank + 2])
                distributed.reduce_scatter(part.zero_(), list(every[rank].clone().chunk(size)), op)
                check(part, expected[2 * rank:2 * rank + 2])
        bits = torch.tensor([1 << rank, 7])
        distributed.all_reduce(bits, ReduceOp.BOR)
        check(bits, torch.tensor([(1 << size) - 1, 7]))
        truth = torch.tensor([rank == 0, rank >= 0, False])
        distributed.all_reduce(truth, ReduceOp.MAX)
        check(truth, torch.tensor([True, True, False]))
        with pytest.raises(UserError, match="SUM"):
            distributed.all_reduce(torch.ones(1), distributed._make_nccl_premul_sum(2.0))


@on_ranks(3)
def test_copies(ranks):
    rank, size = ranks.rank, ranks.size
    with group():
        for dtype in (*DTYPES, torch.bool):
            every = [numbers(r, (3, 2), dtype) for r in range(size)]
            for layout in (every[rank].clone(), every[rank].t().contiguous().t()):
                distributed.broadcast(layout, size - 1)
                check(layout, every[-1])
            found = [torch.empty(2, 3, dtype=dtype).t() for _ in range(size)]
            distributed.all_gather(found, every[rank])
            check(found, every)
            for input_of in (lambda whole: every[rank], lambda whole: whole[3 * rank:3 * rank + 3].copy_(every[rank])):  # noqa: B023
                whole = torch.empty(3 * size, 2, dtype=dtype)
                distributed.all_gather_into_tensor(whole, input_of(whole))
                check(whole, torch.cat(every))
            found = [torch.empty(3, 2, dtype=dtype) for _ in range(size)] if rank == 0 else None
            distributed.gather(every[rank], found, 0)
            check(found, every if rank == 0 else None)
            own = torch.empty(3, 2, dtype=dtype)
            distributed.scatter(own, every if rank == size - 1 else None, size - 1)
            check(own, every[rank])
            found = [torch.empty(3, 2, dtype=dtype) for _ in range(size)]
            distributed.all_to_all(found, [each + rank if dtype == torch.int64 else each for each in every])
            check(found, [every[rank] + r if dtype == torch.int64 else every[rank] for r in range(size)])
        uneven = [torch.empty(r + 1) for r in range(size)]
        distributed.all_gather(uneven, torch.full((rank + 1,), float(rank)))
        check(uneven, [torch.full((r + 1,), float(r)) for r in range(size)])
        rows = torch.empty((rank + 1) * size, 2)
        to = [r + 1 for r in range(size)]
        distributed.all_to_all_single(rows, torch.full((sum(to), 2), float(rank)), [rank + 1] * size, to)
        check(rows, torch.arange(float(size)).repeat_interleave(rank + 1)[:, None].expand(-1, 2))
        distributed.barrier()


@on_ranks(1, 4)
def test_objects_and_messages_of_two_ranks(ranks):
    rank, size = ranks.rank, ranks.size
    with group():
        found = [None] * size
        distributed.all_gather_object(found, {"rank": rank, "text": "x" * rank})
        assert found == [{"rank": r, "text": "x" * r} for r in range(size)]
        said = [f"of {rank}", rank]
        distributed.broadcast_object_list(said, size - 1)
        assert said == [f"of {size - 1}", size - 1]
        own = [None]
        distributed.scatter_object_list(own, [str(r) for r in range(size)] if rank == 0 else None, 0)
        assert own == [str(rank)]
        distributed.gather_object(rank, found if rank == 0 else None, 0)
        assert rank or found == list(range(size))
        left, right = (rank - 1) % size, (rank + 1) % size
        got = torch.empty(3)
        for work in distributed.batch_isend_irecv([
                distributed.P2POp(distributed.isend, torch.full((3,), float(rank)), right),
                distributed.P2POp(distributed.irecv, got, left)]):
            work.wait()
        check(got, torch.full((3,), float(left)))
        if size > 1 and rank == 0:
            sources = {distributed.recv(got) for _ in range(size - 1)}
            assert sources == set(range(1, size))
        elif size > 1:
            distributed.send(got, 0)


@on_ranks(4)
def test_groups_of_some_ranks(ranks):
    rank = ranks.rank
    with group():
        odd, even = distributed.new_group([3, 1]), distributed.new_group([0, 2])
        own = odd if rank % 2 else even
        number = torch.tensor([rank])
        distributed.all_reduce(number, group=own)
        assert number.item() == (4 if rank % 2 else 2)
        distributed.broadcast(number.fill_(rank), src=2 + rank % 2, group=own)
        assert number.item() == 2 + rank % 2


@on_ranks(2)
def test_several_at_once_and_futures(ranks):
    with group():
        tensors = [torch.full((1000 * n,), float(ranks.rank)) for n in range(1, 20)]
        works = [distributed.all_reduce(tensor, async_op=True) for tensor in tensors]
        doubled = works[0].get_future().then(lambda future: 2 * future.value()[0])
        for work in reversed(works):
            work.wait()
        assert all(work.is_completed() and work.is_success() for work in works)
        check(doubled.wait(), 2 * tensors[0])
        assert all((tensor == 1).all() for tensor in tensors)


ALONE = """
import mpilayer.torch
from torch import distributed
distributed.init_process_group("mpi4py", store=distributed.HashStore(), rank=0, world_size=1)
"""


def test_what_differs_from_mpi_is_refused():
    done = mpiexec(2, "-c", ALONE)
    assert done.returncode
    assert "rank 0 of 1 | is rank 1 of 2 of MPI | try: init_process_group" in done.stderr


def trained(ranks, name, wrap, steps=6):
    """The parameters after so many steps of a wrapped model."""
    model = wrap(build(name))
    optimizer = sgd(model)
    for t in range(steps):
        optimizer.zero_grad()
        backward(model, t, part_of(ranks.rank, ranks.size))
        optimizer.step()
    return [getattr(p, "full_tensor", lambda p=p: p)().detach().clone() for p in model.parameters()]


WRAPPERS = {"ddp": lambda model: DistributedDataParallel(model), "fsdp2": lambda model: fully_shard(model) and model}


@on_ranks(2, 3)
def test_ddp_and_fsdp2_train_as_on_gloo(ranks):
    store = distributed.TCPStore("127.0.0.1", port(ranks), ranks.size, ranks.rank == 0)
    found = {}
    for backend in ("mpi4py", "gloo"):
        given = {"init_method": None, "store": distributed.PrefixStore(backend, store), "rank": ranks.rank,
                 "world_size": ranks.size} if backend == "gloo" else {}
        with group(backend, **given):
            for wrapper, wrap in WRAPPERS.items():
                found[backend, wrapper] = trained(ranks, "mlp", wrap)
    for wrapper in WRAPPERS:
        torch.testing.assert_close(found["mpi4py", wrapper], found["gloo", wrapper], rtol=1e-5, atol=1e-6)


def port(ranks):
    """A free one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return ranks.bcast(free.getsockname()[1])

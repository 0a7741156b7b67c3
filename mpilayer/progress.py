"""Who makes messages move while the kernels compute: MPI does nothing unless somebody calls it."""


def none(queue):
    """Nobody: requests move in their own post and wait only."""


def poll(queue):
    """The training loop asks MPI between layers."""
    queue.test()


PROGRESS = {"none": none, "poll": poll}

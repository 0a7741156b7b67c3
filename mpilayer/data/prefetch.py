"""Reading the next batch during the computation on this one."""

import time
from concurrent.futures import ThreadPoolExecutor

NAP = 1e-4  # seconds


def prefetch(read, plan, *, ahead, rest=time.sleep):
    """Yield read(item) for each item of `plan`; if `ahead`, a thread reads one item before it is asked for.

    The thread helps only where a core is free: elsewhere it takes time from the kernels. An error of read() is raised
    when its item is asked for. While one is not there yet, rest(seconds) is how the time passes.
    """
    if not ahead:
        yield from map(read, plan)
        return
    with ThreadPoolExecutor(1, "prefetch") as pool:
        following = None
        for item in plan:
            this, following = following, pool.submit(read, item)
            if this:
                yield _result(this, rest)
        if following:
            yield _result(following, rest)


def _result(future, rest):
    while not future.done():
        rest(NAP)
    return future.result()

"""Reading the next batch during the computation on this one."""

from concurrent.futures import ThreadPoolExecutor


def prefetch(read, plan, *, ahead):
    """Yield read(item) for each item of `plan`; if `ahead`, a thread reads one item before it is asked for.

    The thread helps only where a core is free: elsewhere it takes time from the kernels. An error of read() is raised
    when its item is asked for.
    """
    if not ahead:
        yield from map(read, plan)
        return
    with ThreadPoolExecutor(1, "prefetch") as pool:
        following = None
        for item in plan:
            this, following = following, pool.submit(read, item)
            if this:
                yield this.result()
        if following:
            yield following.result()

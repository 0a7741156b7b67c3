"""Reading the next batch while this one is computed on."""

from concurrent.futures import ThreadPoolExecutor


def prefetch(read, plan, *, ahead):
    """Yield read(item) for each item of the plan; `ahead`: in a thread, one item before it is asked for.

    That pays where a core is free; where all compute, it would only take turns with them. An error of read() is raised
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

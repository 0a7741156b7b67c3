"""One part of `python -m bench gpu`, in a process of its own: `python -m bench.gpu.part PART UNTIL RUN OPTIONS...`."""

import importlib
import math
import os
import platform
import sys
import threading
import time
import traceback

from bench.gpu.command import AGAIN, GRACE, parser
from bench.gpu.record import LONGEST, PARTS, Record, fail, sources, told

EARLY = 3  # seconds before the command stops this process, in which it ends by itself


def facts(needs_gpu):
    """What this machine is. Raises UserError if a GPU is needed and there is none."""
    found = {"python": platform.python_version(), "cores": len(os.sched_getaffinity(0))}
    if not needs_gpu:
        return found
    from bench.gpu import device

    return found | device.facts()


def note(record, name, rows):
    """Write down what a unit has given, and say how far it is."""
    record.add(name, rows)
    text = f"FAILED: {told(rows)[:300]}" if isinstance(rows, Exception) else ""
    total = len(record.units)
    print(f"{total - len(record.data['missing'])}/{total}  {name}  {text}".rstrip(), flush=True)


def exit_status(record, until, again):
    """Of this process; `again`: another one is to go on."""
    return AGAIN if again and record.todo() and time.time() < until else 0


def watch(record, until, longest):
    """End this process where the thread that measures cannot: it may wait for a kernel that never ends.

    A unit that takes more than `longest` seconds has failed; one that is at work when time is over is missing.
    """
    while True:
        time.sleep(0.2)
        with record.lock:
            over, hangs = time.time() > until + GRACE - EARLY, time.time() > record.latest + longest
            if hangs:
                note(record, next(iter(record.todo())), TimeoutError(f"took more than {longest} s"))
            if hangs or over:
                record.save()
                os._exit(exit_status(record, until, hangs))


def run(part, number, options):
    """Measure what is missing until the time is over; the exit status."""
    module = importlib.import_module(PARTS[part][0])
    found = facts(getattr(module, "NEEDS_GPU", True))
    key = {"sources": sources(), "batch": options.batch, "gpu": found.get("gpu")}
    record = Record(options.out, part, key, number, module.units(options))
    if record.anew:
        print(f"{part}: beginning anew, for kernels, nets, --batch or GPU are others than those measured", flush=True)
    record.data["facts"] |= found
    record.save()
    is_broken = getattr(module, "is_broken", None)  # those have it that use the GPU in this process, unit after unit
    watched = record, options.until, LONGEST if is_broken else math.inf
    threading.Thread(target=watch, args=watched, daemon=True).start()
    todo, again = record.todo(), False
    for name, rows in module.measure(todo, options, record.data["facts"]) if todo else ():
        note(record, name, rows)
        again = is_broken and isinstance(rows, Exception) and is_broken()
        if again or time.time() > options.until:
            break
    record.save()
    return exit_status(record, options.until, again)


def main(argv):
    """Entry point."""
    part, until, number, *words = argv
    options = parser().parse_args(words)
    options.until = float(until)
    try:
        status = run(part, number, options)
    except Exception as error:  # whatever it is, the command says it and goes on to the next part
        traceback.print_exc()
        fail(options.out, part, error)
        status = 1
    sys.stdout.flush()
    os._exit(status)  # what still runs is not wanted


if __name__ == "__main__":
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
    main(sys.argv[1:])

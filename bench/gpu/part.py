"""One part of `python -m bench gpu`, in a process of its own: `python -m bench.gpu.part PART UNTIL RUN OPTIONS...`."""

import importlib
import os
import platform
import sys
import time
import traceback

from bench.gpu.command import AGAIN, parser
from bench.gpu.record import PARTS, Record, fail, sources, told


def facts(needs_gpu):
    """What this machine is. Raises UserError if a GPU is needed and there is none."""
    found = {"python": platform.python_version(), "cores": len(os.sched_getaffinity(0))}
    if not needs_gpu:
        return found
    from bench.gpu import device

    return found | device.facts()


def report(name, rows, done, total):
    """A line of how far it is."""
    text = f"FAILED: {told(rows)[:300]}" if isinstance(rows, Exception) else ""
    print(f"{done}/{total}  {name}  {text}".rstrip(), flush=True)


def run(part, until, number, options):
    """Measure what is missing until the time is over; the exit status."""
    module, begin = importlib.import_module(PARTS[part][0]), time.time()
    found = facts(getattr(module, "NEEDS_GPU", True))
    key = {"sources": sources(), "batch": options.batch, "gpu": found.get("gpu")}
    record, units = Record(options.out, part, key, number), module.units(options)
    if record.anew:
        print(f"{part}: beginning anew, for kernels, nets, --batch or GPU are others than those measured", flush=True)
    record.data["facts"] |= found
    spent, again, todo = record.data["seconds"], False, record.todo(units)
    for name, rows in module.measure(todo, options, record.data["facts"]) if todo else ():
        record.data["missing"] = [left for left in record.todo(units) if left != name]
        record.data["seconds"] = spent + time.time() - begin
        record.add(name, rows)
        report(name, rows, len(units) - len(record.data["missing"]), len(units))
        again = isinstance(rows, Exception) and module.is_broken()
        if again or time.time() > until:
            break
    record.data["missing"] = list(record.todo(units))
    record.save()
    return AGAIN if again and record.data["missing"] else 0


def main(argv):
    """Entry point."""
    part, until, number, *words = argv
    options = parser().parse_args(words)
    try:
        status = run(part, float(until), number, options)
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

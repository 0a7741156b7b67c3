"""The table at the end: what was measured, in a line or two for each kind, a column for each precision."""

import statistics

from rich.table import Table

from bench.gpu import record
from bench.rows import console

LEGEND = ("peer / ours, above 1 we are faster; our share of the ceiling of this run, or without one our speed;"
          " geometric means of [rows]")
UNITS = {"tflops": "TFLOP/s", "gb_per_s": "GB/s"}  # what says how fast
PASSES = ("forward", "dgrad", "wgrad")


def _mean(rows, key):
    """Geometric mean of a column; None where no row has it."""
    values = [row[key] for row in rows if row.get(key)]
    return statistics.geometric_mean(values) if values else None


def _cell(rows, share, speed):
    """Ratio, share of the ceiling or speed, number of rows."""
    if not rows:
        return ""
    ratio, part = _mean(rows, "ratio"), _mean(rows, share)
    told = f"{_mean(rows, speed):.3g} {UNITS[speed]}" if part is None else f"{part:.0%}"
    differ = "  RESULTS DIFFER" if any(row.get("agrees") is False for row in rows) else ""
    return f"{'no peer' if ratio is None else f'{ratio:.2f}'}  {told}  [{len(rows)}]{differ}"


def _kinds(parts):
    """(what, its rows, the columns of share and speed)."""
    layers, memory, steps = (record.rows(parts[name]) for name in ("layers", "memory", "steps"))
    products = [row for row in layers if row["kind"] != "attention"]
    for name in PASSES:
        rows = [row for row in products if row["pass"] == name]
        yield f"convolutions and dense, {name}", rows, "product_share", "tflops"
    for name in ("forward", "backward"):
        rows = [row for row in layers if row["kind"] == "attention" and row["pass"] == name]
        yield f"attention, {name}", rows, "product_share", "tflops"
    yield "bounded by memory", memory, "copy_share", "gb_per_s"
    for net in dict.fromkeys(row["net"] for row in steps):
        yield f"step of {net}", [row for row in steps if row["net"] == net], "product_share", "tflops"


def _launching(rows):
    """(what, {precision: text}): how long this computer is at launching a step."""
    for net in dict.fromkeys(row["net"] for row in rows):
        yield f"launching {net}", {row["precision"]: f"{_milliseconds(row, 'launching')} of"
                                   f" {_milliseconds(row, 'seconds')} ms" for row in rows if row["net"] == net}


def _milliseconds(row, key):
    return f"{1e3 * row[key]:.1f}" if row.get(key) is not None else "-"


def _overlap(rows):
    """(what, {precision: text}) of schedules in turn."""
    found = {}
    for row in rows:
        if "iteration_seconds" in row:
            share = f" ({row['bound_share']:.0%} of bound)" if row.get("bound_share") else ""
            text = (f"{_milliseconds(row, 'iteration_seconds')} ms, {_milliseconds(row, 'exposed_seconds')} exposed,"
                    f" bound {_milliseconds(row, 'bound_seconds')}{share}")
            found.setdefault(f"{row['net']} {row['schedule']}", {})[row["precision"]] = text
            alone = (f"{_milliseconds(row, 'compute_seconds')} compute,"
                     f" {_milliseconds(row, 'communication_seconds')} comm. ms")
            found.setdefault(f"{row['net']} alone", {})[row["precision"]] = alone
    return sorted(found.items())


def _ceilings(parts):
    """(what, {precision: text})."""
    speeds, copies = {}, []
    for data in parts.values():
        speeds |= {precision: speed for precision, speed in data["facts"].get("product_tflops", {}).items() if speed}
        copies += [data["facts"]["copy_gb_per_s"]] if "copy_gb_per_s" in data["facts"] else []
    yield "ceiling: products, TFLOP/s", {precision: f"{speed:.0f}" for precision, speed in speeds.items()}
    if copies:
        yield "ceiling: copy, GB/s", {"float32": f"{max(copies):.0f}"}


def _checked(rows):
    """How many passes are right, and what the worst error is of the one allowed."""
    worst = max((row["error"] / row["bound"] for row in rows), default=0)
    return f"{sum(row['good'] for row in rows)} of {len(rows)}, worst {worst:.0%}" if rows else ""


def _lines(parts, precisions):
    """Lines of the table."""
    checked = record.rows(parts["check"])
    yield "right, of passes checked", [_checked([r for r in checked if r["precision"] == p]) for p in precisions]
    for what, cells in _ceilings(parts):
        yield what, [cells.get(precision, "") for precision in precisions]
    for what, rows, *columns in _kinds(parts):
        yield what, [_cell([row for row in rows if row["precision"] == p], *columns) for p in precisions]
    for what, cells in (*_launching(record.rows(parts["steps"])), *_overlap(record.rows(parts["overlap"]))):
        yield what, [cells.get(precision, "") for precision in precisions]


def registers(data):
    """A table of the largest numbers of each room's kernels, and of which instructions there are."""
    table = Table("kernel", "architecture", "builds", "registers", "spills", "shared", "stack", "instructions",
                  title="compiled")
    groups = {}
    for row in record.rows(data):
        if "registers" in row:
            groups.setdefault((row["build"].split()[0] + " " + row["kernel"], row["architecture"]), []).append(row)
    for (kernel, architecture), rows in sorted(groups.items(), key=lambda pair: (pair[0][1], pair[0][0])):
        most = {name: max(row[name] for row in rows) for name in ("registers", "spill_stores", "shared", "stack")}
        seen = sorted({name for row in rows for name in row.get("instructions", {}) if "." in name})
        table.add_row(kernel, architecture, str(len(rows)), *map(str, most.values()), " ".join(seen))
    return table


def _state(name, data, broken):
    """A part in a line, or nothing if it never began."""
    error = broken.get(name) or data["error"]
    if not (data["units"] or data["failures"] or data["missing"] or error):
        return None
    told = [f"{name:8} {len(data['units'])} done in {data['seconds']:.0f} s"]
    told += [f"{len(data['failures'])} FAILED"] if data["failures"] else []
    told += [f"{len(data['missing'])} missing: {', '.join(data['missing'][:3])}"
             f"{', ...' if len(data['missing']) > 3 else ''}"] if data["missing"] else []
    told += [f"FAILED: {error[:300]}"] if error else []
    return ", ".join(told)


def failures(parts):
    """A line for each unit that failed."""
    return [f"FAILED {name}: {unit}: {failure['error'][:300]}" for name, data in parts.items()
            for unit, failure in data["failures"].items()]


def show(options, broken):
    """Print all; whether something failed."""
    parts = {name: record.read(options.out, name) for name in record.PARTS}
    say = console(width=160, markup=False).print
    if "build" in options.parts and (compiled := registers(parts["build"])).row_count:
        say(compiled)
    for line in failures(parts)[:20]:
        say(line)
    facts = {key: value for data in parts.values() for key, value in data["facts"].items()
             if not isinstance(value, dict)}
    say(", ".join(f"{key} {value}" for key, value in facts.items()))
    if facts.get("torch", "") is None:
        say("no peer: PyTorch is not installed here, or has no GPU")
    for name, data in parts.items():
        if line := _state(name, data, broken):
            say(line)
    if "all" in broken:
        say(f"FAILED: {broken['all']}")
    precisions = [p for p in ("float32", "tf32", "bfloat16") if p in options.precisions]
    table = Table("", *precisions, title=f"batch {options.batch}; {LEGEND}")
    for what, cells in _lines(parts, precisions):
        if any(cells):
            table.add_row(what, *cells)
    if table.row_count:
        say(table)
    return bool(broken or failures(parts))

"""The page of a report: one file, without scripts, that asks no network for anything."""

from html import escape

from mpilayer.report import figures

POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # a browser holds the page to it
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.5rem } h3 { font-size: 1rem; margin-bottom: 0 }
table { border-collapse: collapse; font-size: 0.87rem } th, td { padding: 0.15rem 0.8rem 0.15rem 0; text-align: left }
th { font-weight: 600 } td { max-width: 18rem; overflow-wrap: anywhere; vertical-align: top }
 tr { border-bottom: 1px solid #e4e4e4 } td { font-variant-numeric: tabular-nums }
.differs td { background: #fff6d6 } svg { max-width: 100%; height: auto }
"""
MOST_LAYERS = 8  # in the table of the slowest rank


def page(runs):
    """The HTML of Runs, side by side."""
    parts = [_section("Runs", _summary(runs)),
             _section("Loss and accuracy", figures.progress(runs) or "<p>no epoch has ended</p>"),
             _each(runs, "What each rank did in a step", figures.division),
             _each(runs, "The last step", figures.last_step),
             _each(runs, "The slowest rank", _slowest),
             _section("Options", _compared(runs, "config")), _section("Environment", _compared(runs, "environment"))]
    title = f"mpilayer: {', '.join(run.name for run in runs)}"
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><style>{STYLE}</style></head>\n'
            f"<body><h1>{escape(title)}</h1>\n{''.join(parts)}</body></html>\n")


def _section(title, content):
    return f"<h2>{title}</h2>\n{content}\n"


def _each(runs, title, make):
    """A section with what is made of each run, under its name if there are several."""
    def content(run):
        name = f"<h3>{escape(run.name)}</h3>" if len(runs) > 1 else ""
        return name + (make(run) or "<p>not known: the run has not come to its end, or was on one rank</p>")

    return _section(title, "\n".join(map(content, runs)))


def _table(head, rows):
    """Of rows (name, texts); where the texts of several runs differ, the row says so."""
    lines = [f"<tr{' class=differs' if mark else ''}><th>{escape(name)}</th>"
             f"{''.join(f'<td>{escape(text)}</td>' for text in texts)}</tr>" for name, texts, mark in rows]
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f"<table><thead><tr>{names}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _summary(runs):
    """What one would ask first."""
    rows = list(map(_facts, runs))
    return _table(["", *(run.name for run in runs)], [(name, [row[name] for row in rows], False) for name in rows[0]])


def _facts(run):
    config, place, final = run.record["config"], run.record["environment"], run.final
    last = (run.record["epochs"] or [{}])[-1]
    seconds = sum(epoch["seconds"] for epoch in run.record["epochs"])
    exposed = sum(epoch["exposed_seconds"] for epoch in run.record["epochs"])
    slowest, deaths = final.get("slowest"), final.get("deaths") or ()
    return {"state": "complete" if run.record["complete"] else "not at its end",
            "net": config["net"], "data": str(config["data"]), "schedule": config["schedule"],
            "ranks": f"{place['ranks']} on {place['nodes']} hosts" if place["nodes"] > 1 else str(place["ranks"]),
            "effective batch": str(config["batch"]),
            "steps": str(last.get("step", 0)),
            "loss of training": _number(last.get("train_loss"), ".4f"),
            "loss on the test part": _number(last.get("test_loss"), ".4f"),
            "accuracy on the test part": _number(last.get("test_accuracy"), ".2%"),
            "seconds of training": _number(seconds, ".1f"),
            "images/s, last epoch": _number(last.get("images_per_second"), ",.0f"),
            "exposed": _number(exposed / seconds if seconds else None, ".1%"),
            "slowest rank": f"{slowest['rank']} ({slowest['host']}), {slowest['times']:.2f} times" if slowest else "",
            "resumed after step": ", ".join(map(str, final.get("resumed") or ())),
            "ranks that died": ", ".join(str(rank) for death in deaths for rank in death["ranks"])}


def _number(value, form):
    return "" if value is None else format(value, form)


def _slowest(run):
    """A sentence, and the layers in which it computes longest beyond the mean."""
    slowest, layers = run.final.get("slowest"), run.final.get("layers")
    if not slowest:
        return None
    beyond = sorted(layers, key=lambda name: layers[name]["slowest"] - layers[name]["mean"], reverse=True)
    rows = [(name, [f"{1e3 * layers[name][of]:.3f}" for of in ("slowest", "mean")], False)
            for name in beyond[:MOST_LAYERS]]
    said = (f"Rank {slowest['rank']} ({slowest['host']}) computes {slowest['times']:.2f} times as long as the median of"
            " the others.")
    return f"<p>{escape(said)}</p>{_table(['', 'its ms a step', 'mean of all ranks'], rows)}"


def _compared(runs, part):
    """All values of a part of run.json."""
    names = dict.fromkeys(name for run in runs for name in run.record[part])
    rows = [(name, [_text(run.record[part].get(name)) for run in runs]) for name in names]
    return _table(["", *(run.name for run in runs)],
                  [(name.replace("_", " "), texts, len(set(texts)) > 1) for name, texts in rows if any(texts)])


def _text(value):
    return "" if value in (None, []) else " ".join(map(_text, value)) if isinstance(value, list) else str(value)

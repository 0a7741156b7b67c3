import copy
import html
import json
import re
import shutil
import subprocess

import pytest

from mpilayer.base.errors import UserError
from mpilayer.report import __main__ as report
from mpilayer.report.runs import FORMAT, LOG, RUN, read
from tests.ranks import train

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no chromium | try: apt install chromium")
BROWSER = "not an origin"  # who asks for what the browser itself wants
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run", "--disable-default-apps", "--virtual-time-budget=2000")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a run on two ranks, another on one, one that was killed, and one as 64 ranks would have left it."""
    top = tmp_path_factory.mktemp("runs")
    for name, ranks, *words in (("two", 2, "--slow", "1:2"), ("one", 1, "--schedule", "oneshot")):
        done = train(ranks, "--steps", 60, "--log", "jsonl", "--out", top / name, *words)
        assert done.returncode == 0, done.stderr
    record = json.loads((top / "two" / RUN).read_text())
    write(top / "killed", record | {"complete": False, "final": None, "epochs": record["epochs"][:1]})
    write(top / "begun", record | {"complete": False, "final": None, "epochs": []})
    many = copy.deepcopy(record)
    many["environment"] |= {"ranks": 64, "nodes": 32}
    row = many["final"]["ranks"][0]
    many["final"]["ranks"] = [row | {"rank": rank, "host": f"node{rank // 2}"} for rank in range(64)]
    many["final"]["slowest"] = {"rank": 63, "host": "node<31>", "times": 1.75}
    write(top / "many", many)
    return top


def write(folder, record):
    folder.mkdir()
    (folder / RUN).write_text(json.dumps(record))


def made(folder, tmp_path, *names):
    """The page of runs."""
    report.main([*(str(folder / name) for name in names), str(tmp_path / "page.html")])
    return (tmp_path / "page.html").read_text()


def text_of(page):
    return html.unescape(re.sub(r"<[^>]*>", " ", page))


def cells(page, name):
    """The texts of a row."""
    row = re.search(rf"<th>{name}</th>(.*?)</tr>", page)[1]
    return [html.unescape(text) for text in re.findall("<td>(.*?)</td>", row)]


def test_three_runs_side_by_side(folder, tmp_path, capsys):
    page = made(folder, tmp_path, "two", "one", "killed")
    assert capsys.readouterr().out == f"wrote {tmp_path / 'page.html'}\n"
    two = json.loads((folder / "two" / RUN).read_text())
    assert cells(page, "state") == ["complete", "complete", "not at its end"]
    assert cells(page, "ranks")[:2] == ["2", "1"]
    assert cells(page, "accuracy on the test part")[0] == f"{two['final']['test_accuracy']:.2%}"
    assert cells(page, "steps") == ["60", "60", str(two["epochs"][0]["step"])]
    assert cells(page, "slowest rank")[0].startswith("1 (")
    assert re.search("<tr class=differs><th>schedule</th>", page)
    assert not re.search("<tr class=differs><th>seed</th>", page)
    text = text_of(page)
    for words in ("loss of training", "accuracy on the test part", "ms since the step began", "exposed (only waiting)",
                  "computes", "mean of all ranks", "layerwise, step 59", "oneshot, step 59", "MPICH"):
        assert words in text, words
    assert text.count("ms since the step began") == 2  # the killed one has left no timeline


@pytest.mark.parametrize(("name", "state"), [("many", "complete"), ("begun", "not at its end"), ("one", "complete")])
def test_one_run(folder, tmp_path, name, state):
    page = made(folder, tmp_path, name)
    assert cells(page, "state") == [state]
    if name == "many":
        assert "Rank 63 (node<31>) computes 1.75 times" in text_of(page)
        assert cells(page, "ranks")[0] == "64 on 32 hosts"
        assert {f"{rank} (node{rank // 2})" for rank in range(64)} <= set(re.findall(r"\d+ \(node\d+\)", page))
    if name == "begun":
        assert "no epoch has ended" in page


def test_the_log_of_a_killed_run_is_read_as_far_as_it_is_whole(folder):
    whole = read(folder / "two")
    assert [line["step"] for line in whole.log if "loss" in line][-1] == 60
    (folder / "killed" / LOG).write_text('{"step": 5, "loss": 3.5}\n{"step": 10, "lo')
    killed = read(folder / "killed")
    assert list(killed.losses()) == [(5,), (3.5,)]
    (folder / "killed" / LOG).unlink()
    assert list(read(folder / "killed").losses())[0] == (whole.record["epochs"][0]["step"],)


@pytest.mark.parametrize(("text", "message"), [
    (None, "cannot read .*run.json .*expected the folder of a run"),
    ("{", "not whole, or no JSON"),
    ("[]", f"no record of a run in format {FORMAT}"),
    ('{"config": {}}', f"no record of a run in format {FORMAT}"),
    ('{"format": 1, "config": {}}', f"no record of a run in format {FORMAT}"),
])
def test_what_is_no_run_is_said(tmp_path, text, message):
    if text is not None:
        (tmp_path / RUN).write_text(text)
    with pytest.raises(UserError, match=message):
        read(tmp_path)


def test_a_record_that_was_changed_is_said(folder, tmp_path, capsys):
    record = json.loads((folder / "one" / RUN).read_text())
    del record["config"]["net"]
    write(tmp_path / "changed", record)
    with pytest.raises(SystemExit):
        report.main([str(tmp_path / "changed"), str(tmp_path / "page.html")])
    assert "run.json is not as this version of mpilayer writes it (KeyError: 'net')" in capsys.readouterr().err


@pytest.mark.parametrize(("out", "message"), [("page.png", "ends in .html"), ("no/such/page.html", "cannot write")])
def test_a_page_that_cannot_be_written(folder, out, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        report.main([str(folder / "one"), out])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def opened(path):
    """(the document as a browser has it, addresses that the page asked for) of a page."""
    place = path.parent
    line = [CHROMIUM, *QUIET, f"--user-data-dir={place / 'profile'}", f"--log-net-log={place / 'net.json'}",
            "--dump-dom", f"file://{path}"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    events = json.loads((place / "net.json").read_text())["events"]
    asked = {event["params"]["url"] for event in events if event.get("params", {}).get("url", "").startswith("http")
             and event["params"].get("initiator", BROWSER) != BROWSER}
    return done.stdout, asked


@needs_chromium
def test_what_a_page_asks_for_is_seen(tmp_path):
    (tmp_path / "page.html").write_text("<img src='http://127.0.0.1:9/a.png'>")
    assert opened(tmp_path / "page.html")[1] == {"http://127.0.0.1:9/a.png"}


@needs_chromium
@pytest.mark.parametrize("names", [["one"], ["many"], ["killed"], ["two", "one", "many"]], ids="-".join)
def test_a_browser_shows_it_and_asks_no_network(folder, tmp_path, names):
    made(folder, tmp_path, *names)
    document, asked = opened(tmp_path / "page.html")
    assert asked == set()
    assert len(cells(document, "state")) == len(names)
    assert ("ms a step" in text_of(document)) == (names != ["killed"])
    assert document.count("<svg") == document.count("</svg>") >= 1

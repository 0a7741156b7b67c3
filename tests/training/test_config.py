import json
import re

import pytest

from mpilayer.base.errors import UserError
from mpilayer.report.runs import FORMAT, RUN
from mpilayer.train import NET
from mpilayer.training import config
from mpilayer.training.options import parser, read_options
from tests.ranks import train


def read(words, text=None, tmp_path=None, name="run.toml"):
    """The options of a command line, with a file of that text."""
    if text is not None:
        (tmp_path / name).write_text(text)
        words += f" --config {tmp_path / name}"
    return read_options(words.split(), NET, 3)


def test_a_file_says_what_the_command_line_does_not(tmp_path):
    found = read("--lr 0.5 --batch-per-rank 4", """
        lr = 0.1
        batch = 90
        schedule = "delayed:2+wire=bfloat16"
        slow = ["1:2", "2:1.5"]
        quiet = false
        heal = true
        [optimizer]
        optimizer = "adamw"
        weight-decay = 0.25
        lr_policy = "cosine"
    """, tmp_path)
    assert found.lr == 0.5
    assert found.batch == 12
    assert (found.schedule, found.delay, found.wire) == ("delayed", 2, "bfloat16")
    assert found.slow == [(1, 2.0), (2, 1.5)]
    assert (found.optimizer, found.weight_decay, found.lr_policy) == ("adamw", 0.25, "cosine")
    assert (found.quiet, found.heal) == (False, True)


@pytest.mark.parametrize(("words", "expected"), [
    ("--schedule oneshot", {"schedule": "oneshot", "delay": None, "wire": "bfloat16"}),
    ("--schedule oneshot --wire float32", {"wire": "float32", "error_feedback": None}),
    ("--delay 3", {"schedule": "delayed", "delay": 3}),
    ("--error-feedback", {"error_feedback": True, "delay": 2}),
])
def test_options_of_a_part_go_with_it(tmp_path, words, expected):
    found = read(words, 'schedule = "delayed"\ndelay = 2\nwire = "bfloat16"\nerror-feedback = false\n', tmp_path)
    assert vars(found).items() >= expected.items()


@pytest.mark.parametrize(("name", "text", "message"), [
    ("run.toml", "lr == 3", "is no TOML .* expected lines such as lr = 0.1"),
    ("run.toml", "lerning-rate = 3", r"--config .*run.toml \| unrecognized arguments: --lerning-rate"),
    ("run.toml", 'lr = "much"', r"--config .*run.toml \| argument --lr: expected a number"),
    ("run.toml", 'config = "x"', r"run.toml \| config is for the command line"),
    ("run.json", "{}", f"is no record of a run in format {FORMAT}"),
    ("run.json", "{", "is not whole, or no JSON"),
])
def test_what_is_wrong_with_a_file_is_said(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message):
        read("--steps 1", text, tmp_path, name)


def test_a_file_that_is_not_there():
    with pytest.raises(UserError, match="cannot read nowhere.toml .No such file"):
        read("--config nowhere.toml")


def test_what_was_given_can_be_given_again():
    words = ["--lr", "0.5", "--quiet", "--slow", "1:2", "--slow=2:3", "--schedule=delayed", "--jitter", "-1"]
    again = config.given(words)
    assert again == {"lr": "0.5", "quiet": True, "slow": ["1:2", "2:3"], "schedule": "delayed", "jitter": "-1"}
    assert config.given([*config.words_of(again)]) == again


def test_a_run_is_repeated_to_the_bit_and_what_is_not_as_it_was_is_said(tmp_path):
    (tmp_path / "run.toml").write_text('steps = 30\nbatch = 48\nseed = 5\n[schedule]\nschedule = "delayed"\n')
    first = train(3, "--config", tmp_path / "run.toml", "--lr", "0.02", "--out", tmp_path / "first")
    assert first.returncode == 0, first.stderr
    record = json.loads((tmp_path / "first" / RUN).read_text())
    assert record["given"].items() >= {"steps": "30", "seed": "5", "schedule": "delayed", "lr": "0.02"}.items()
    assert record["measured"].keys() == {"progress", "bucket", "chunk", "reduction"}
    assert "auto" not in record["measured"].values()
    again = train(3, "--config", tmp_path / "first" / RUN, "--out", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    assert "the numbers will not be" not in again.stdout
    assert "messages take" not in again.stdout  # nothing is measured anew
    repeated = json.loads((tmp_path / "again" / RUN).read_text())
    assert repeated["final"]["weights_sha256"] == record["final"]["weights_sha256"]
    assert repeated["measured"] == record["measured"]
    other = train(2, "--config", tmp_path / "first" / RUN, "--steps", 1)
    assert other.returncode == 0, other.stderr
    assert "ranks was 3, and is 2 here: the numbers will not be the same" in other.stdout.replace("\n", " ")


def test_every_group_of_the_help_has_an_example_that_works():
    text = parser(NET).format_help()
    examples = re.findall(r"as in: (.*)", text)
    assert len(examples) == len(re.findall(r"^[a-z ]+:$", text, re.MULTILINE)) > 5
    for example in examples:
        words = example.replace("--config run.toml ", "")
        assert vars(read_options(words.split(), NET, 2))

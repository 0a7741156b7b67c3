"""The command line of the main job, and the parts that it is made of: no MPI is needed to read it."""

import re
from pathlib import Path

import numpy as np
import pytest

from mpilayer.base.cli import natural_or
from mpilayer.base.errors import UserError
from mpilayer.schedules import SCHEDULES, make
from mpilayer.train import NET, load
from mpilayer.training.optim import OPTIMIZERS
from mpilayer.training.options import parser, read_options

NETS = '''
from nets.blocks import Dropout, Flatten, Loss
from nets.composite import Sequence
from nets.layer import Dense

def body(classes, width=24, rate=0.5, hidden=True, wide=False, names="dense"):
    middle = (Dense(names, width), Dropout("drop", rate)) if hidden else ()
    return Sequence(Flatten(), *middle, Dense("last", classes, relu=False), Loss())

def other_width(classes, width=0.5):
    return body(classes, round(10 * width))

def alike(classes):
    return Sequence(Flatten(), Dense("dense", 13), Dense("dense", classes, relu=False), Loss())

def odd(classes, width=24):
    raise ValueError(f"{width} is not odd")

def unusual(classes, more=0, slope=-0.5, shapes=(3, 5), act=body):
    return body(classes)

def unset(classes, width):
    return body(classes, width)
'''
SCHEDULE = '''
from mpilayer.schedules.layerwise import Layerwise

class Later(Layerwise):
    late = True
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """own(name) is what --net or --schedule calls a part in a file of the user's, which is forgotten after the test."""
    for choice in (make.CHOICE, NET):
        monkeypatch.setattr(choice, "parts", dict(choice.parts))
    (tmp_path / "parts.py").write_text(NETS + SCHEDULE)
    return lambda name: f"{tmp_path}/parts.py:{name}"


def read(words, *more):
    return read_options([*words.split(), *more], NET, 3)


def refused(words, *more):
    with pytest.raises(UserError) as error:
        read(words, *more)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("words", ["--schedule delayed:2", "--schedule=delayed:2", "--schedule delayed+delay=2",
                                   "--schedule ps:1 --schedule delayed:2"])
def test_a_schedule_with_its_options(words):
    options = read(words)
    assert (options.schedule, options.delay, options.delay_warmup) == ("delayed", 2, 0)


@pytest.mark.parametrize(("words", "twice"), [
    ("--schedule delayed:1 --delay 2", "--delay"), ("--delay=2 --schedule delayed:1", "--delay"),
    ("--schedule delayed:1+delay=2", "--delay"), ("--schedule ps+staleness=1 --staleness 1", "--staleness")])
def test_an_option_that_a_schedule_has_already(words, twice):
    assert f": {twice} is given twice" in refused(words)


def test_only_the_schedule_is_taken_apart():
    options = read("--schedule delayed:1 --out delayed:1")
    assert (options.schedule, options.delay, options.out) == ("delayed", 1, Path("delayed:1"))


def test_options_are_not_abbreviated():
    assert "unrecognized arguments: --sched delayed:1" in refused("--sched delayed:1")


@pytest.mark.parametrize("name", ["delayd:1", "delayd:auto", "delayd.some:Delayed"])
def test_a_schedule_that_nobody_knows(name):
    message = refused("--schedule", name)
    assert message.startswith(f"--schedule {name}: delayd")
    assert f"try: one of {', '.join(SCHEDULES)}, or python -c" in message


def test_a_program_says_schedule_without_dashes(own):
    with pytest.raises(UserError, match="^schedule: invalid choice: 'delayd' .choose from 'oneshot', 'layerwise'"):
        make.make_schedule("delayd", None, None, None)
    with pytest.raises(UserError, match="^schedule /.*: there is no None in"):
        make.CHOICE.load(own("None"))


def test_parts_of_a_user_are_kept_apart(own):
    options = read("--schedule", own("Later"), "--momentum-correction")
    assert make.CHOICE.parts[options.schedule].late
    assert options.schedule not in SCHEDULES
    assert options.schedule in refused("--momentum-correction")


def test_options_for_late_gradients_name_the_schedules():
    late = [name for name, kind in SCHEDULES.items() if kind.late]
    assert {option.name for kind in OPTIMIZERS.values() for option in kind.options if option.late} == {
        "momentum_correction", "delay_compensation", "weight_prediction"}
    text = " ".join(parser(NET).format_help().split())
    assert f"sgd, adamw, muon: {', '.join(late)}: move late gradients" in text


def test_two_ways_to_move_weights_ahead_are_refused_before_anything_starts():
    message = refused("--schedule", "delayed", "--momentum-correction", "--weight-prediction")
    assert message.startswith("--momentum-correction and --weight-prediction both move weights ahead")


def test_sizes_of_a_net_are_options(own):
    options = read("--net", own("body"))
    assert (options.width, options.rate, options.hidden, options.wide, options.names) == (24, 0.5, True, False, "dense")
    options = read("--rate 0.25 --no-hidden --wide --names few --width 3 --net", own("body"))
    assert (options.width, options.rate, options.hidden, options.wide, options.names) == (3, 0.25, False, True, "few")
    assert "--rate: expected a number, not negative" in refused("--net", own("body"), "--rate", "-1")
    assert "--width: expected a positive whole number" in refused("--net", own("body"), "--width", "0.5")


def test_sizes_of_which_the_default_is_unusual(own):
    options = read("--net", own("unusual"))
    assert (options.more, options.slope, options.shapes, options.act) == (0, -0.5, None, None)
    assert read("--more 0 --slope=-0.25 --net", own("unusual")).slope == -0.25
    assert "--more: expected a number, at least 0, got '-1'" in refused("--more -1 --net", own("unusual"))
    assert len(load(options, None)[1].layers) == 2


def test_two_nets_disagree_on_the_type_of_a_size(own):
    assert read("--net", own("other_width"), "--width", "1.5").width == 1.5
    assert read("--net transformer-mini --width 8").width == 8


def test_help_shows_the_defaults_of_sizes():
    text = " ".join(parser(NET).format_help().split())
    assert re.search(r"transformer: channels of a token \(default: 256\); transformer-mini: .*\(default: 64\)", text)


def test_sizes_reach_the_net(own):
    for words, layers in (([], ["dense", "last"]), (["--no-hidden"], ["last"]), (["--names", "a"], ["a", "last"])):
        source, net = load(read("--net", own("body"), *words), None)
        assert [layer.name for layer in net.layers] == layers
        source.close()
    assert net.layers[0].size == 24 * (np.prod(net.shape) + 1)


@pytest.mark.parametrize(("name", "message"), [
    ("alike", "two layers are called 'dense': expected a name of its own for each"),
    ("odd", "24 is not odd"),
    ("unset", "unset: missing a required argument: 'width' (its sizes: width)"),
])
def test_a_net_of_a_user_that_cannot_be_made(own, name, message):
    options = read("--net", own(name))
    with pytest.raises(UserError) as error:
        load(options, None)
    assert str(error.value) == f"--net {own(name)}: {message}"


def test_samples_that_do_not_fit():
    with pytest.raises(UserError, match=r"^alexnet-mini cannot take samples of \(2, 2, 1\) from synthetic: .*: larger"):
        load(read("--data synthetic --shape 2x2x1"), None)


@pytest.mark.parametrize("words", [
    "--steps 999999999999999999999", "--epochs 1e3", "--jitter 1e300", "--slow 1:1e300", "--slow 1:nan", "--lr 1e308",
    "--net transformer-mini --depth 100000000", "--schedule delayed --delay 9999999999999", "--seed -1", "--clip inf"])
def test_a_number_out_of_bounds(words):
    option = words.split()[-2]
    assert re.search(rf"^argument {option}: expected a .*, got ", refused(words))


def test_an_output_folder_needs_a_name():
    assert "argument --out: expected the name of a folder, got ''" in refused("--out", "")


def test_a_number_or_a_word():
    steps = natural_or("auto")
    assert (steps("auto"), steps("3")) == ("auto", 3)
    with pytest.raises(Exception, match="expected a whole number, not negative, or auto, got 'none'"):
        steps("none")

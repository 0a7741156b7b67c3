import subprocess
import sys

import numpy as np
import pytest

from kernels import check, vectors
from kernels.loss import check as loss
from kernels.rooms import part, rooms
from tests.ranks import TOP, environment


@pytest.mark.parametrize("room", rooms())
def test_every_room_has_passes(room, monkeypatch):
    cases = part(room, "cases")
    monkeypatch.setattr(cases, "CASES", cases.CASES[-1:])
    found = list(check.results(room))
    assert len({name for _, name, *_ in found}) == len(found) > 1
    assert all(0 <= off <= part(room, "check").BOUND.cpu == bound for *_, off, bound in found)


def test_a_line_a_pass_and_a_summary(capsys):
    assert check.main(["loss"]) == 0
    head, *lines, summary = capsys.readouterr().out.splitlines()
    assert head.split() == ["room", "case", "pass", "error", "bound"]
    assert len(lines) == 4 * 5
    assert all(line.startswith("loss ") and line.endswith(" 2.0e-06  ok") for line in lines)
    assert summary.startswith(f"{vectors.isa()}: 20 of 20 ok, worst: loss ")


@pytest.mark.parametrize(("wrong", "shown"), [(1.001, "1.0e-03"), (np.nan, "inf")])
def test_what_is_off_fails_and_is_the_worst(wrong, shown, monkeypatch, capsys):
    right = loss.softmax

    def off(logits):
        return right(logits) * np.float32(wrong if logits.shape == (5, 17) else 1)

    monkeypatch.setattr(loss, "softmax", off)
    assert check.main(["loss"]) == 1
    *lines, summary = capsys.readouterr().out.splitlines()
    assert [line.split()[1:3] for line in lines if line.endswith("FAILED")] == [["odd", "softmax"]]
    assert summary == f"{vectors.isa()}: 19 of 20 ok, worst: loss odd softmax {shown} 2.0e-06 FAILED"


def test_the_error_is_relative_to_the_largest():
    want = np.array([-4.0, 1.0, 0.0])
    assert check.error(np.array([-4, 1, 0.5], np.float32), want) == 0.125
    assert check.error(np.array([1, 200], np.uint8), np.array([2, 200], np.uint8)) == 1 / 200
    assert check.error(np.zeros(3, np.float32), np.zeros(3)) == 0
    assert check.error(np.ones(3, np.float32), np.zeros(3)) == np.inf


def test_on_another_instruction_set():
    done = subprocess.run([sys.executable, "-m", "kernels.check", "loss", "--isa", "plain"], cwd=TOP,
                          env=environment(KERNELS_ISA="avx512"), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("plain: 20 of 20 ok")


def test_an_instruction_set_this_processor_lacks(monkeypatch, capsys):
    monkeypatch.setenv("KERNELS_ISA", "avx512")
    monkeypatch.setattr(vectors.binding, "get_host_cpu_features", dict)
    with pytest.raises(SystemExit) as stop:
        check.main(["conv2d", "--isa", "avx2"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.endswith("error: --isa avx2: this processor has plain at most\n")


def test_a_machine_without_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(check.gpu, "missing", lambda: "no GPU here")
    with pytest.raises(SystemExit) as stop:
        check.main(["loss", "--backend", "cuda"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.endswith("error: --backend cuda: no GPU here\n")


def test_precisions_are_the_gpus(capsys):
    with pytest.raises(SystemExit):
        check.main(["loss", "--precision", "tf32"])
    assert capsys.readouterr().err.endswith("error: --precision tf32 goes with --backend cuda\n")


def test_bfloat16_on_this_processor(capsys):
    assert check.main(["loss", "--precision", "bfloat16"]) == 0
    assert f"{vectors.isa()} bfloat16: 20 of 20 ok" in capsys.readouterr().out


def test_bfloat16_says_what_it_needs(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(SystemExit):
        check.main(["loss", "--precision", "bfloat16"])
    assert capsys.readouterr().err.endswith("needs ml_dtypes | try: pip install ml_dtypes\n")


def test_help_lists_the_rooms(capsys):
    with pytest.raises(SystemExit):
        check.main(["--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*rooms(), *vectors.ISAS, "numba"))

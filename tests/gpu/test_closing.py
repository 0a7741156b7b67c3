"""Pinned memory is given back only when no copy reads or writes it any more."""

from types import SimpleNamespace

from mpilayer.gpu.staging import Staged


def test_closing_waits_for_both_directions():
    waited = []
    staged = Staged.__new__(Staged)
    for name in ("outwards", "inwards"):
        setattr(staged, name, SimpleNamespace(synchronize=lambda name=name: waited.append(name)))
    staged.close()
    assert sorted(waited) == ["inwards", "outwards"]

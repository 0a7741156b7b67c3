"""Environment variables: what each may be."""

import pytest

from mpilayer.base import env
from mpilayer.base.errors import UserError


@pytest.mark.parametrize(("name", "text"), [
    ("MPILAYER_PATIENCE", "0.5"), ("MPILAYER_PATIENCE", "1e9"), ("MPILAYER_PROGRESS_US", "1"),
    ("MPILAYER_PROGRESS_US", "1000000"), ("MPILAYER_PROGRESS_US", "auto"),
    ("KERNELS_NUM_THREADS", "2"), ("KERNELS_WINOGRAD", "off"),
    ("MPILAYER_CUDA_AWARE", "0")])
def test_what_a_variable_may_be(monkeypatch, name, text):
    monkeypatch.setenv(name, text)
    assert env.get(name) == text
    env.check()


@pytest.mark.parametrize(("name", "text"), [
    ("MPILAYER_PATIENCE", "abc"), ("MPILAYER_PATIENCE", "-1"), ("MPILAYER_PATIENCE", "0"), ("MPILAYER_PATIENCE", "nan"),
    ("MPILAYER_PATIENCE", "inf"), ("MPILAYER_PROGRESS_US", "nan"), ("MPILAYER_PROGRESS_US", "1e9"),
    ("MPILAYER_PROGRESS_US", "0"), ("MPILAYER_PROGRESS_US", "9" * 5000), ("KERNELS_NUM_THREADS", "1000000000"),
    ("KERNELS_NUM_THREADS", "²"), ("KERNELS_WINOGRAD", "maybe"), ("MPILAYER_CUDA_AWARE", "2")])
def test_what_it_may_not_be(monkeypatch, name, text):
    monkeypatch.setenv(name, text)
    with pytest.raises(UserError, match=rf"^{name}={text}: expected .* \| try: unset {name}$"):
        env.check()

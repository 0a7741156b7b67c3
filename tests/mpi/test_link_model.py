"""What sizes of messages follow from a link's latency and bandwidth."""

from mpilayer.mpi.link_model import LinkModel


def test_a_noisy_measurement_makes_no_absurd_sizes():
    """Large messages that seemed hardly slower than small ones once gave messages of 152 GiB."""
    noisy = LinkModel.between(4096, 0.01596, 1 << 20, 0.01595)
    assert noisy.bucket <= 64 << 20
    assert noisy.chunk <= 256 << 20
    assert LinkModel(0.015955, 1e-15).bucket == 64 << 20

"""The net of a run that has ended, with its weights."""

import nets
from mpilayer.base.errors import UserError
from mpilayer.storage.weights_file import read_weights
from mpilayer.train import NET, take


def trained_net(path):
    """(net, Weights) of a run's folder or its weights.h5. Raises UserError for what cannot be read, or is no run."""
    weights = read_weights(path)
    if weights.is_state_dict:
        raise UserError(f"{weights.path} | does not say of which net | expected a run's folder, or its weights.h5")
    about = weights.about
    try:
        recipe = NET.load(about["net"]).recipe
        net = nets.build(recipe, classes=about["classes"], shape=tuple(about["shape"]), **about["sizes"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{weights.path} | its net cannot be made ({error})"
                        " | try: the mpilayer that wrote it") from None
    take(net, weights)
    return net, weights

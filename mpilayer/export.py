"""The weights of a run for other programs: `python -m mpilayer.export RUN OUT.safetensors` or `OUT.onnx`.

Safetensors hold a PyTorch state dict; ONNX the whole net, for evaluation.
"""

from pathlib import Path

from mpilayer.base.cli import HelpFormatter, Parser
from mpilayer.base.errors import UserError
from mpilayer.base.files import replaced
from mpilayer.base.terminal import run_alone
from mpilayer.storage.weights_file import SAFETENSORS, safetensors
from mpilayer.train import NET
from mpilayer.trained import trained_net
from nets.onnx_graph import onnx_model
from nets.state_dict import state_dict


def write_safetensors(path, net, about):
    """A PyTorch state dict. Raises UserError if safetensors is not installed."""
    arrays = state_dict(net, NET.load(about["net"]).recipe.modules)
    safetensors().save_file(arrays, path, {"format": "pt", "net": about["net"]})


def write_onnx(path, net, about):
    """The net. Raises UserError if onnx is not installed, or if ONNX has not what the net is made of."""
    try:
        model = onnx_model(net, about["net"])
    except ImportError:
        raise UserError("onnx is not installed | try: pip install 'mpilayer[export]'") from None
    except ValueError as error:
        raise UserError(f"{path} | {error} | try: {SAFETENSORS}, which has the weights alone") from None
    path.write_bytes(model.SerializeToString())


FORMATS = {SAFETENSORS: write_safetensors, ".onnx": write_onnx}


def parser():
    """All options."""
    p = Parser(prog="python -m mpilayer.export", description=__doc__, formatter_class=HelpFormatter)
    p.add_argument("run", help="folder of a run with --out, or its weights.h5")
    p.add_argument("out", type=Path, help=f"file to write, {' or '.join(f'*{suffix}' for suffix in FORMATS)}")
    return p


def export(options):
    """Read, and write. Raises UserError."""
    write = FORMATS.get(options.out.suffix)
    if write is None:
        raise UserError(f"{options.out} | expected a name that ends in {' or '.join(FORMATS)}")
    net, weights = trained_net(options.run)
    try:
        with replaced(options.out) as temporary:
            write(temporary, net, weights.about)
    except OSError as error:
        raise UserError(f"cannot write {options.out} ({error.strerror or error}) | try: another folder") from None
    print(f"{options.out}: {weights.about['net']}, {net.size:,} parameters")


def main(argv=None):
    """Entry point."""
    run_alone(export, parser(), argv)


if __name__ == "__main__":
    main()

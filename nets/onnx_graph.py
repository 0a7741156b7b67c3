"""A net as an ONNX model, for evaluation: images (N,C,H,W) or tokens (N,T) come in as `input`, `logits` go out."""

import math

import numpy as np

from nets.blocks import Attention, AvgPool, Dropout, Flatten, Gelu, GlobalAvgPool, Loss, Lrn, MaxPool
from nets.composite import Concat, Residual, Sequence, Side, Skip
from nets.conv_norm import ConvNorm
from nets.layer import Conv, Dense, Embedding, LayerNorm
from nets.state_dict import entries

OPSET, IR = 20, 9  # the first with GELU, and the format that goes with it
HIDDEN = -1e9  # added to the scores of later tokens


class Graph:
    """Nodes and constants as they are added; each method returns the name of an output."""

    def __init__(self, net):
        from onnx import helper, numpy_helper

        self.helper, self.numpy_helper = helper, numpy_helper
        self.nodes, self.constants = [], []
        self.arrays = {entry.name: entry for entry in entries(net)}

    def node(self, operator, *inputs, **attributes):
        """An operator."""
        name = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(self.helper.make_node(operator, inputs, [name], **attributes))
        return name

    def constant(self, array, name=None):
        """An array."""
        name = name or f"constant_{len(self.constants)}"
        self.constants.append(self.numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def weight(self, layer, part):
        """An array of a layer's, as PyTorch has it."""
        entry = self.arrays[f"{layer.name}/{part}"]
        return self.constant(entry.exported(), f"{layer.name}/{part}")

    def relu(self, x, wanted=True):
        """The rectifier, if wanted."""
        return self.node("Relu", x) if wanted else x

    def add(self, block, x):
        """What a block of ours makes of x. Raises ValueError for one that is not known here."""
        match block:
            case Conv():
                weights = (self.weight(block, part) for part in ("weight", "bias"))
                return self.relu(self.convolution(block, x, *weights), block.relu)
            case ConvNorm():
                return self.relu(self.normalized(block, x), block.relu)
            case Dense() | LayerNorm() if block.images:
                turned = self.along_channels(block, self.node("Transpose", x, perm=[0, 2, 3, 1]))
                return self.node("Transpose", turned, perm=[0, 3, 1, 2])
            case Dense() | LayerNorm():
                return self.along_channels(block, x)
            case Embedding():
                token, position = (self.weight(block, part) for part in ("token", "position"))
                return self.node("Add", self.node("Gather", token, x), position)
            case Attention():
                return self.attention(block, x)
            case Residual():
                return self.residual(block, x)
            case Skip():
                return self.node("Add", x, self.sequence(block, x))
            case Concat():
                return self.node("Concat", *(self.add(branch, x) for branch in block.blocks), axis=1)
            case Side() | Dropout() | Loss():
                return x
            case Sequence():
                return self.sequence(block, x)
        return self.without_weights(block, x)

    def without_weights(self, block, x):
        """As add(), for pooling and the like."""
        match block:
            case AvgPool():
                return self.node("AveragePool", x, count_include_pad=1, **self.window(block))
            case MaxPool():
                return self.node("MaxPool", x, **self.window(block))
            case GlobalAvgPool():
                return self.node("Flatten", self.node("GlobalAveragePool", x))
            case Flatten():
                return self.node("Flatten", x)
            case Lrn():
                size, alpha, beta, bias = block.PARAMETERS
                return self.node("LRN", x, size=size, alpha=alpha, beta=beta, bias=bias)
            case Gelu():
                return self.node("Gelu", x, approximate="tanh")
        raise ValueError(f"ONNX has no {type(block).__name__} of ours")

    def sequence(self, block, x):
        """One after the other."""
        for part in block.blocks:
            x = self.add(part, x)
        return x

    @staticmethod
    def window(block):
        """The attributes of pooling."""
        stride, padding, ceil = (block.geometry[name] for name in ("stride", "padding", "ceil_mode"))
        return {"kernel_shape": [block.window] * 2, "strides": [stride] * 2, "pads": [padding] * 4,
                "ceil_mode": int(ceil)}

    def convolution(self, block, x, *weights):
        """With a bias or without."""
        names = "stride", "padding", "dilation", "groups"
        stride, padding, dilation, groups = (block.geometry[name] for name in names)
        return self.node("Conv", x, *weights, kernel_shape=[block.window] * 2, strides=[stride] * 2,
                         pads=[padding] * 4, dilations=[dilation] * 2, group=groups)

    def normalized(self, block, x):
        """Convolution and batch normalization by the running statistics."""
        scales = (self.weight(block, part) for part in ("gamma", "beta", "running_mean", "running_var"))
        convolved = self.convolution(block, x, self.weight(block, "weight"))
        return self.node("BatchNormalization", convolved, *scales, epsilon=block.EPS)

    def along_channels(self, block, x):
        """A dense layer or layer normalization of the last axis."""
        if isinstance(block, LayerNorm):
            scales = (self.weight(block, part) for part in ("gamma", "beta"))
            return self.node("LayerNormalization", x, *scales, axis=-1, epsilon=1e-5)
        weight = self.arrays[f"{block.name}/weight"].exported().T
        y = self.node("MatMul", x, self.constant(weight, f"{block.name}/weight"))
        if block.bias is not None:
            y = self.node("Add", y, self.weight(block, "bias"))
        return self.relu(y, block.relu)

    def residual(self, block, x):
        """Two ways that join before the last rectifier."""
        short = x if block.shortcut is None else self.add(block.shortcut, x)
        for part in block.body[:-1]:
            x = self.add(part, x)
        return self.relu(self.node("Add", self.normalized(block.body[-1], x), short))

    def attention(self, block, x):
        """Causal, of (N,T,3C)."""
        T, width = block.shape
        depth = width // block.heads
        parts = self.node("Reshape", x, self.constant(np.array([0, T, 3, block.heads, depth])))
        parts = self.node("Transpose", parts, perm=[2, 0, 3, 1, 4])  # (3,N,heads,T,depth)
        q, k, v = (self.node("Gather", parts, self.constant(np.array(number)), axis=0) for number in range(3))
        scores = self.node("MatMul", q, self.node("Transpose", k, perm=[0, 1, 3, 2]))
        scores = self.node("Mul", scores, self.constant(np.float32(1 / math.sqrt(depth))))
        mask = self.constant(np.triu(np.full((T, T), HIDDEN, np.float32), 1))
        y = self.node("MatMul", self.node("Softmax", self.node("Add", scores, mask), axis=-1), v)
        return self.node("Reshape", self.node("Transpose", y, perm=[0, 2, 1, 3]),
                         self.constant(np.array([0, T, width])))


def onnx_model(net, name):
    """The onnx.ModelProto of a net, without dropout and auxiliary classifiers, with running statistics; its first axis
    has any length. Raises ValueError for a block that is not known here, ImportError without the package onnx.
    """
    from onnx import TensorProto, checker

    graph = Graph(net)
    helper, output = graph.helper, graph.add(net.body, "input")
    graph.nodes.append(helper.make_node("Identity", [output], ["logits"]))
    images = len(net.shape) == 3
    H, W, C = net.shape if images else (0, 0, 0)
    shape = ["N", C, H, W] if images else ["N", *net.shape]
    logits = ["N", net.classes] if images else ["N", *net.shape, net.classes]
    made = helper.make_model(helper.make_graph(
        graph.nodes, name,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT if images else TensorProto.INT64, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, logits)], graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR, producer_name="mpilayer")
    checker.check_model(made)
    return made

"""A decoder-only Transformer (Vaswani et al. 2017; normalized before each part and begun as GPT-2), and a small one."""

import math

from nets.blocks import Attention, Gelu, Loss
from nets.composite import Sequence, Skip
from nets.layer import Dense, Embedding, LayerNorm
from nets.recipe import recipe

STD = 0.02
DEEPEST = 1000  # blocks; more take minutes to be made
SIZES = {"width": "channels of a token", "heads": "of attention", "depth": "pairs of attention and dense layers"}


def block(name, width, heads, depth):
    """Attention, then two dense layers for each token; what joins the trunk starts small, as many such are added."""
    joining = STD / math.sqrt(2 * depth)
    return Sequence(
        Skip(LayerNorm(f"{name}/norm1"), Dense(f"{name}/qkv", 3 * width, relu=False, std=STD, kind="attention"),
             Attention(heads), Dense(f"{name}/joined", width, relu=False, std=joining, kind="attention")),
        Skip(LayerNorm(f"{name}/norm2"), Dense(f"{name}/fc1", 4 * width, relu=False, std=STD), Gelu(),
             Dense(f"{name}/fc2", width, relu=False, std=joining)))


@recipe((256,), 256, **SIZES)
def transformer(classes, width=256, heads=8, depth=6):
    """`classes` is the vocabulary; 4,935,680 parameters for 256 of them and a context of 256."""
    if depth > DEEPEST:
        raise ValueError(f"depth {depth}: expected at most {DEEPEST}")
    return Sequence(
        Embedding("embedding", classes, width, STD), *(block(f"{n + 1}", width, heads, depth) for n in range(depth)),
        LayerNorm("norm"), Dense("output", classes, relu=False, std=STD, bias=None), Loss())


@recipe((64,), 256, **SIZES)
def transformer_mini(classes, width=64, heads=4, depth=2):
    """The same, narrow and shallow."""
    return transformer.blocks(classes, width, heads, depth)

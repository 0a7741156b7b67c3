"""Kernels for training neural networks, channels-last, on NumPy arrays and, on a GPU, on CuPy's.

A room is a folder that holds all of one operation or a few related ones: __init__.py has the public signatures, ref.py
the operation in NumPy, cpu.py in Numba, cuda.cu in CUDA C++ with its launcher cuda.py; cases.py has the shapes it is
tested and timed on, check.py compares it with ref.py. Rooms are found by their folders (kernels.rooms); docs/kernels.md
tells how to add one. The public names of all rooms are these:
"""

from kernels.activation import (
    add,
    bias_relu_backward,
    dropout,
    dropout_backward,
    gelu,
    gelu_backward,
    relu,
    relu_backward,
)
from kernels.attention import attention, attention_backward
from kernels.batchnorm import (
    batchnorm,
    batchnorm_dgrad,
    batchnorm_running,
    batchnorm_statistics,
    batchnorm_wgrad,
)
from kernels.compress import (
    lowrank_expand,
    lowrank_orthonormalize,
    lowrank_orthonormalize_address,
    lowrank_project,
    topk_decode,
    topk_encode,
)
from kernels.conv2d import bias_grad, conv2d, conv2d_dgrad, conv2d_wgrad
from kernels.dense import dense, dense_dgrad, dense_wgrad
from kernels.embedding import embedding, embedding_backward
from kernels.gpu import set_precision
from kernels.layernorm import layernorm, layernorm_backward
from kernels.layout import empty, pages
from kernels.loss import softmax_cross_entropy
from kernels.matmul import matmul
from kernels.norm import lrn, lrn_backward
from kernels.pool import (
    avgpool2d,
    avgpool2d_backward,
    global_avgpool,
    global_avgpool_backward,
    maxpool2d,
    maxpool2d_backward,
    pool2d_shape,
)
from kernels.progress import set_progress
from kernels.threads import num_threads, set_num_threads
from kernels.update import adamw_update, compensate_delay, extrapolate, momentum_update, sum_of_squares
from kernels.wire import bfloat16_op_address, decode_bfloat16, encode_bfloat16, ordered_sum, ordered_sum_address

__all__ = [
    "adamw_update", "add", "attention", "attention_backward", "avgpool2d", "avgpool2d_backward", "batchnorm",
    "batchnorm_dgrad", "batchnorm_running", "batchnorm_statistics", "batchnorm_wgrad", "bfloat16_op_address",
    "bias_grad", "bias_relu_backward", "compensate_delay", "conv2d", "conv2d_dgrad", "conv2d_wgrad", "decode_bfloat16",
    "dense", "dense_dgrad", "dense_wgrad", "dropout", "dropout_backward", "embedding", "embedding_backward", "empty",
    "encode_bfloat16", "extrapolate", "gelu", "gelu_backward", "global_avgpool", "global_avgpool_backward", "layernorm",
    "layernorm_backward", "lowrank_expand", "lowrank_orthonormalize", "lowrank_orthonormalize_address",
    "lowrank_project", "lrn", "lrn_backward", "matmul", "maxpool2d", "maxpool2d_backward", "momentum_update",
    "num_threads", "ordered_sum", "ordered_sum_address", "pages", "pool2d_shape", "relu", "relu_backward",
    "set_num_threads", "set_precision", "set_progress", "softmax_cross_entropy", "sum_of_squares", "topk_decode",
    "topk_encode",
]

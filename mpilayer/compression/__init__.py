"""What of a gradient travels: how layers are fused and split into messages, rounded, or compressed."""

from mpilayer.compression.dense import Dense, Rounded
from mpilayer.compression.powersgd import PowerSGD
from mpilayer.compression.topk import TopK

COMPRESSORS = {"float32": Dense, "bfloat16": Rounded, "topk": TopK, "powersgd": PowerSGD}

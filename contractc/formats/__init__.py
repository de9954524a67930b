"""Factorized operands: arrays held as factors and contracted without being materialised.

Every format is a function that returns a `Factorized`, which `contract`, `compile` and `plan` take in place of a dense
array. `*_from_dense` finds the factors, the algebra works on them, `save` and `load` keep them.
"""

from contractc.formats.algebra import add, hadamard, inner, matmul, norm, scale, take, transpose
from contractc.formats.compress import Compressed, Trial, compress
from contractc.formats.decompose import (
    kronecker_from_dense,
    low_rank_from_dense,
    monarch_from_dense,
    relative_error,
    tt_from_dense,
    tt_matrix_from_dense,
    tucker_from_dense,
)
from contractc.formats.factorized import Factorized, forced, with_factors
from contractc.formats.files import load, save
from contractc.formats.fitting import Progress, cp_from_dense
from contractc.formats.kinds import cp, kronecker, kronecker_sum, low_rank, monarch, tt, tt_matrix, tucker
from contractc.formats.networks import block_term, hierarchical_tucker, network, tensor_ring, tubal
from contractc.formats.rounding import rounded

__all__ = [
    "Compressed",
    "Factorized",
    "Progress",
    "Trial",
    "add",
    "block_term",
    "compress",
    "cp",
    "cp_from_dense",
    "forced",
    "hadamard",
    "hierarchical_tucker",
    "inner",
    "kronecker",
    "kronecker_from_dense",
    "kronecker_sum",
    "load",
    "low_rank",
    "low_rank_from_dense",
    "matmul",
    "monarch",
    "monarch_from_dense",
    "network",
    "norm",
    "relative_error",
    "rounded",
    "save",
    "scale",
    "take",
    "tensor_ring",
    "transpose",
    "tt",
    "tt_from_dense",
    "tt_matrix",
    "tt_matrix_from_dense",
    "tubal",
    "tucker",
    "tucker_from_dense",
    "with_factors",
]

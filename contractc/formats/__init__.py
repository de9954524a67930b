"""Factorized operands: arrays held as factors and contracted without being materialised.

Every function returns a `Factorized`, which `contract`, `compile` and `plan` take in place of a dense array.
"""

from contractc.formats.decompose import (
    kronecker_from_dense,
    low_rank_from_dense,
    monarch_from_dense,
    tt_from_dense,
    tt_matrix_from_dense,
    tucker_from_dense,
)
from contractc.formats.factorized import Factorized
from contractc.formats.kinds import cp, kronecker, low_rank, monarch, tt, tt_matrix, tucker

__all__ = [
    "Factorized",
    "cp",
    "kronecker",
    "kronecker_from_dense",
    "low_rank",
    "low_rank_from_dense",
    "monarch",
    "monarch_from_dense",
    "tt",
    "tt_from_dense",
    "tt_matrix",
    "tt_matrix_from_dense",
    "tucker",
    "tucker_from_dense",
]

"""Generated kernels against float64 NumPy, in Triton's interpreter, on contractions drawn at test time."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from drawn import CLASSES, DTYPES, INTERPRETED, draw, run, truth

from contractc.evaluation import evaluate_einsum

pytestmark = INTERPRETED

DRAWS = 2
"""Contractions of each class and dtype."""


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_kernel_computes_the_contraction(kind: str, dtype: str) -> None:
    rng = random.Random(f"{kind} {dtype}")
    for _ in range(DRAWS):
        case = draw(rng, kind, dtype)
        assert torch.equal(run(case), truth(case)), case


@pytest.mark.parametrize("semiring", ["max_plus", "min_plus", "max_times"])
@pytest.mark.parametrize("kind", ["pairwise", "batched", "reduce", "hadamard", "tiny", "chain"])
def test_kernel_computes_in_a_semiring(kind: str, semiring: str) -> None:
    rng = random.Random(f"{kind} {semiring}")
    dtype = rng.choice(["float32", "float64", "int32", "int8"] if semiring != "max_times" else ["float32"])
    case = draw(rng, kind, dtype, semiring, most=600)
    if semiring == "max_times":
        for x in case.tensors:
            x.abs_() if x.is_contiguous() else None
        case = (
            case
            if all((x >= 0).all() for x in case.tensors)
            else draw(rng, kind, "int32", "max_plus", most=600)
        )
    task = case.task
    (expected,) = evaluate_einsum(
        task.terms[:-1],
        [task.terms[-1]],
        task.extents,
        [x.numpy() for x in case.tensors],
        dtypes=[task.dtypes[-1]],
        semiring=task.semiring,
        conj=(),
    )
    np.testing.assert_array_equal(run(case).numpy(), expected, err_msg=repr(case))

"""Generated kernels against float64 NumPy, in Triton's interpreter, on contractions drawn at test time."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from drawn import CLASSES, DTYPES, INTERPRETED, Drawn, draw, run, truth

from contractc.backends.triton.problem import runs_of
from contractc.backends.triton.tasks import Task
from contractc.backends.triton.tiles import TileConfig
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


@pytest.mark.parametrize("semiring", ["max_plus", "min_plus", "max_times", "log_sum_exp"])
@pytest.mark.parametrize("kind", ["pairwise", "batched", "reduce", "hadamard", "tiny", "chain"])
def test_kernel_computes_in_a_semiring(kind: str, semiring: str) -> None:
    rng = random.Random(f"{kind} {semiring}")
    exact = semiring in ("max_plus", "min_plus")
    dtype = rng.choice(["float32", "float64", "int32", "int8"] if exact else ["float32", "float64"])
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
    rounding = 0.0 if semiring != "log_sum_exp" else 1e-5 if dtype == "float32" else 1e-13
    np.testing.assert_allclose(run(case).numpy(), expected, rounding, rounding, err_msg=repr(case))


def test_infinities_are_added_as_in_numpy() -> None:
    extents, terms = (5, 3), ((0, 1), (0,))
    values = np.array(
        [[-np.inf, -np.inf, -np.inf], [np.inf, np.inf, 1], [-np.inf, 2, 2], [800, 800, -800], [np.nan, 1, 2]]
    )
    task = Task(terms, ("float64",) * 2, extents, semiring="log_sum_exp")
    problem, parts = task.problem(task.in_order())
    config = TileConfig(tuple((r.name, 2) for r in runs_of(problem)))
    case = Drawn("ij->i", task, (torch.as_tensor(values),), problem, parts, config)
    np.testing.assert_allclose(run(case).numpy(), np.logaddexp.reduce(values, 1), 1e-14)


def test_infinity_stays_infinite_where_an_intermediate_is_padded() -> None:
    extents = (3, 4, 5, 6)
    terms = ((0, 1), (1, 2), (2, 3), (0, 3))
    task = Task(terms, ("float32",) * 4, extents, path=((0, 1), (3, 2)))
    tensors = tuple(torch.ones([extents[m] for m in t]) for t in terms[:-1])
    tensors[0][1, 2] = float("inf")
    problem, parts = task.problem(task.in_order())
    blocks = tuple((r.name, 16 if r.summed else 4) for r in runs_of(problem))
    case = Drawn("ij,jk,kl->il", task, tensors, problem, parts, TileConfig(blocks))
    expected = torch.einsum("ij,jk,kl->il", *tensors)
    assert expected[1].isinf().all()
    assert torch.equal(run(case), expected)

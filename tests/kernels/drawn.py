"""Contractions drawn for the kernels: terms, extents, dtypes, layouts, tile configs; and the truth."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from contractc.backends.triton.launch import launch, literal, passes_of
from contractc.backends.triton.problem import Problem, contiguous, runs_of, splittable
from contractc.backends.triton.tasks import Task
from contractc.backends.triton.tiles import TileConfig

INTERPRETED = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1")
"""The interpreter is chosen when kernels are loaded, so these tests are a run of their own."""


@contextmanager
def kernels_always_win() -> Iterator[None]:
    """Make the library's product as slow as it has to be for every step to be a kernel."""
    from contractc.backends.triton import choose, steps, tasks

    def slow(*given: Any, **named: Any) -> float:
        return 1.0

    cached = (tasks.choice, choose.chosen, steps._function, steps._apart)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "library_seconds", slow)
        for function in cached:
            function.cache_clear()
        yield
    for function in cached:
        function.cache_clear()


CLASSES = {
    "pairwise": ("ij,jk->ik", "ij,kj->ki", "abc,cbd->da", "iajb,bja->i", "ia,ja->ij", "abi,bja->ij"),
    "batched": ("bij,bkj->bki", "ibj,jbk->bik", "bia,cbaj->cjbi", "ijb,jkb->ikb"),
    "reduce": ("abc->b", "abcd->ca", "abc->", "ab->ba", "abc->cba"),
    "hadamard": ("nc,nc->n", "ab,ab->ab", "ab,ba->ba", "ab,b->a", "ab,cb->", "a,b->ba"),
    "diagonal": ("ii->i", "ii->", "iij->ji", "ii,ij->j", "iaj,jai->a"),
    "tiny": ("zab,zbc->zac", "zabc,zcbd->zad", "abcde,cf->abfde", "abcdef,ceg->abdgf"),
    "chain": (
        "ij,jk,kl->il",
        "bij,iar,rjc->bac",
        "bij,ika,jal->bkl",
        "ij,jk,kl,lm->im",
        "xabc,adr,rbes,scf->xdef",
    ),
    "bilinear": ("bi,oij,bj->bo", "bi,ij,bj->b", "bi,bj,bk,ijk->b"),
    "khatri": ("ijk,jr,kr->ir", "ijk,ir,kr->jr", "ir,jr,kr->ijk"),
    "gram": ("ni,n,nj->ij", "bni,bn,bnj->bij"),
    "coupling": ("zui,zuj,ijk->zuk", "ui,vj,ijk->uvk"),
    "state": ("bsd,bse->bde", "bsd,bse,bte->btd", "ig,ij,jg->g"),
}
"""Expressions by class of kernel."""

PATHS = {
    "ij,jk,kl,lm->im": ((0, 1), (4, 2), (5, 3)),
    "xabc,adr,rbes,scf->xdef": ((0, 1), (4, 2), (5, 3)),
    "bi,bj,bk,ijk->b": ((0, 3), (4, 1), (5, 2)),
    "ijk,jr,kr->ir": ((1, 2), (0, 3)),
}
"""Orders of the expressions with three inputs or more; left to right for the others."""

EXTENTS = (1, 2, 3, 5, 7, 8, 16, 17, 24)
DTYPES = ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool", "complex64",
          "complex128")  # fmt: skip
MOST_PROGRAMS = 16
MOST_ELEMENTS = 2**15


def terms_of(text: str) -> tuple[tuple[int, ...], ...]:
    """Return the terms of an expression, the output last."""
    inputs, out = text.split("->")
    modes: dict[str, int] = {}
    return tuple(tuple(modes.setdefault(c, len(modes)) for c in term) for term in (*inputs.split(","), out))


NARROWER = {
    "float32": ("float16", "int8", "bool"),
    "float64": ("float32", "int16", "bool"),
    "complex64": ("float32", "bool"),
    "complex128": ("float64", "complex64"),
    "int64": ("int32", "bool"),
    "int32": ("int8", "bool"),
}
"""What an input may be beside the dtype of the output."""


@dataclass(frozen=True)
class Drawn:
    """One contraction: the task, its tensors, and a tile config for their strides."""

    text: str
    task: Task
    tensors: tuple[Tensor, ...]
    problem: Problem
    parts: tuple[tuple[int, ...], ...]
    config: TileConfig

    def __repr__(self) -> str:
        strides = [x.stride() for x in self.tensors]
        return (
            f"{self.text} {self.task.extents} {self.task.dtypes} {strides} {self.task.semiring} {self.config}"
        )


def draw(rng: random.Random, kind: str, dtype: str, semiring: str = "sum_product", most: int = 3000) -> Drawn:
    """Return a contraction of a class; its values are small integers, so that every order of summation agrees."""
    text = rng.choice(CLASSES[kind])
    terms = terms_of(text)
    count = 1 + max((m for t in terms for m in t), default=0)
    extents = [rng.choice(EXTENTS) for _ in range(count)]
    while any(np.prod([extents[m] for m in t], initial=1) > most for t in terms):
        extents[rng.randrange(count)] = rng.choice(EXTENTS[:4])
    path = PATHS.get(text, ((0, 1), (3, 2)) if len(terms) == 4 else ())
    dtypes = [dtype] * len(terms)
    if semiring == "sum_product" and rng.random() < 0.2:
        dtypes[rng.randrange(len(terms) - 1)] = rng.choice(NARROWER.get(dtype, (dtype,)))
    conj = tuple(dtype.startswith("complex") and rng.random() < 0.3 for _ in terms[:-1])
    task = Task(terms, tuple(dtypes), tuple(extents), conj, path, (), semiring, "default")
    tensors = tuple(
        _tensor(rng, [extents[m] for m in t], d) for t, d in zip(terms, dtypes[:-1], strict=False)
    )
    strides = [literal(t, x.stride(), extents, ()) for t, x in zip(terms, tensors, strict=False)]
    problem, parts = task.problem([*strides, contiguous(terms[-1], extents, ())])
    return Drawn(text, task, tensors, problem, parts, _config(rng, problem))


def _tensor(rng: random.Random, shape: Sequence[int], dtype: str) -> Tensor:
    """Return a tensor in order, in another order of axes, with gaps and an offset, or with an axis that repeats."""
    values = np.random.default_rng(rng.randrange(2**32))
    kind = rng.choice(("in order", "in order", "permuted", "gaps", "repeated"))
    made: Any = values.integers(-2, 3, [2 * n + 1 if kind == "gaps" else n for n in shape])
    if dtype.startswith("complex"):
        made = made + 1j * values.integers(-2, 3, made.shape)
    if dtype in ("bool", "uint8"):
        made = np.abs(made) % (2 if dtype == "bool" else 3)
    x = torch.as_tensor(made).to(getattr(torch, dtype))
    if kind == "gaps":
        x = x[tuple(slice(1, 1 + 2 * n, 2) if k % 2 else slice(1, 1 + n) for k, n in enumerate(shape))]
    elif kind == "permuted" and shape:
        order = rng.sample(range(len(shape)), len(shape))
        back = [order.index(k) for k in range(len(shape))]
        x = x.permute(order).contiguous().permute(back)
    elif kind == "repeated" and shape:
        axis = rng.randrange(len(shape))
        x = x.narrow(axis, 0, 1).expand(shape)
    return x


def _config(rng: random.Random, problem: Problem) -> TileConfig:
    """Return a tile config drawn for a problem: any blocks, as long as the interpreter is done soon."""
    runs = runs_of(problem)
    ordered = problem.semiring not in ("sum_product", "or_and") and len(problem.inputs) > 1
    fixed = {r.name for r in runs if ordered and r.summed}
    blocks = {r.name: 1 if r.name in fixed else rng.choice((1, 2, 4, 16, 32)) for r in runs}

    def turns() -> int:
        return int(np.prod([-(-problem.size(r.modes) // blocks[r.name]) for r in runs], initial=1))

    free = [r.name for r in runs if r.name not in fixed and problem.size(r.modes) > 1]
    while turns() > MOST_PROGRAMS and any(blocks[name] < 32 for name in free):
        name = rng.choice([name for name in free if blocks[name] < 32])
        blocks[name] *= 2
    while np.prod(list(blocks.values()), initial=1) > MOST_ELEMENTS:
        name = max(blocks, key=lambda n: blocks[n])
        blocks[name] //= 2
    config = TileConfig(tuple(blocks.items()), rng.choice((4, 8)), rng.choice((2, 3)), rng.choice((1, 8)))
    loops = [r for r in runs if r.summed and blocks[r.name] < problem.size(r.modes)]
    split = rng.choice((1, 3)) if loops and len(problem.path) == 1 and splittable(problem) else 1
    resident, dots = rng.choice((0, 0, 1, 2)), rng.choice((3, 4))
    return replace(config, split=split, resident=resident, dots=dots)


def run(case: Drawn, where: str = "cpu") -> Tensor:
    """Return what the kernels of a case write on a device; every byte around the output is checked to be untouched."""
    task = case.task
    shape = [task.extents[m] for m in task.terms[-1]]
    size = int(np.prod(shape, initial=1))
    dtype = getattr(torch, task.dtypes[-1])
    guard = 64
    memory = torch.full((size + 2 * guard,), 77, dtype=torch.int64, device=where).to(dtype)
    before = memory.clone()
    out = memory[guard : guard + size].view(shape)
    passes = passes_of(case.problem, case.config)
    sizes = [int(np.prod([task.extents[m] for m in part])) for part in case.parts]
    target = out
    if len(passes) == 2:
        first = passes[0]
        width = getattr(torch, first.problem.out.dtype)
        target = torch.full((first.config.split * size,), 99, dtype=torch.int64, device=where).to(width)
    tensors = [placed(x, where) for x in case.tensors]
    launch(passes[0], (*tensors, target), sizes, [])
    if len(passes) == 2:
        launch(passes[1], (target, out), passes[1].problem.extents, [])
    assert torch.equal(memory[:guard], before[:guard]) and torch.equal(memory[-guard:], before[-guard:])
    return out


def placed(x: Tensor, where: str) -> Tensor:
    """Return `x` on a device, with the strides and the offset that it has."""
    if x.device.type == where:
        return x
    storage = torch.empty(x.untyped_storage().size() // x.element_size(), dtype=x.dtype)
    storage = storage.set_(x.untyped_storage()).to(where)
    return storage.as_strided(x.shape, x.stride(), x.storage_offset())


def truth(case: Drawn) -> Tensor:
    """Return the contraction in float64, complex128 or exact integers, in the dtype of the output."""
    task = case.task
    name = task.dtypes[-1]
    wide = torch.complex128 if name.startswith("complex") else torch.float64
    if name in ("int64", "int32", "int16", "int8", "uint8", "bool"):
        wide = torch.int64
    arrays = [x.conj() if c else x for x, c in zip(case.tensors, task.conj, strict=True)]
    operands: list[Any] = []
    for x, term in zip(arrays, task.terms, strict=False):
        operands += [x.to(wide).resolve_conj().numpy(), list(term)]
    found = np.einsum(*operands, list(task.terms[-1]))
    made = torch.as_tensor(np.array(found))
    return made != 0 if name == "bool" else made.to(getattr(torch, name))

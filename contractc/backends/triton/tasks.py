"""Task: a contraction of a program without its strides; what its kernel is, and what else could compute it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from contractc.backends.triton.emit import SEMIRINGS
from contractc.backends.triton.model import Model, Prediction, library_seconds
from contractc.backends.triton.problem import Problem, contiguous, problem_of, runs_of
from contractc.backends.triton.ranking import ranked
from contractc.backends.triton.tiles import TileConfig, parsed
from contractc.backends.triton.toolchain import POINTERS
from contractc.dtypes import is_complex
from contractc.grouping import groups
from contractc.machine import H200, Gpu
from contractc.notation import Term
from contractc.programs import Contract, Program

MOST_INPUTS = 8
"""Inputs of one kernel at most."""

LIBRARY = "library"
"""`how` of a step that torch's own operations compute."""


@dataclass(frozen=True, slots=True)
class Task:
    """A contraction as a program has it: terms and dtypes (the output last), extents, conjugates, path."""

    terms: tuple[Term, ...]
    dtypes: tuple[str, ...]
    extents: tuple[int, ...]
    conj: tuple[bool, ...] = ()
    path: tuple[tuple[int, ...], ...] = ()
    dynamic: Term = ()
    semiring: str = "sum_product"
    precision: str = "default"

    def problem(self, strides: Sequence[Sequence[int | None]]) -> tuple[Problem, tuple[Term, ...]]:
        """Return the problem for values with these strides, and what each of its modes stands for."""
        return problem_of(
            self.terms,
            strides,
            self.dtypes,
            self.extents,
            conj=self.conj,
            path=self.path,
            dynamic=self.dynamic,
            semiring=self.semiring,
            precision=self.precision,
        )

    def in_order(self) -> list[tuple[int | None, ...]]:
        """Return the strides of values that lie in order in memory."""
        return [contiguous(term, self.extents, self.dynamic) for term in self.terms]


def task_of(step: Contract, program: Program) -> Task:
    """Return the task of a step; modes that it does not have lose their extents, so that equal steps are equal."""
    known = program.values()
    terms = (*(known[i].modes for i in step.inputs), step.out.modes)
    names = {m: k for k, m in enumerate(dict.fromkeys(m for t in terms for m in t))}
    return Task(
        tuple(tuple(names[m] for m in t) for t in terms),
        (*(known[i].dtype for i in step.inputs), step.out.dtype),
        tuple(program.extents[m] for m in names),
        step.conj,
        step.path,
        tuple(names[m] for m in program.dynamic if m in names),
        program.semiring,
        program.precision,
    )


def refusal(task: Task) -> str | None:
    """Return why there is no kernel for a task, or None."""
    if task.semiring not in SEMIRINGS:
        return f"no kernel adds in {task.semiring}"
    for dtype in task.dtypes:
        if dtype not in POINTERS:
            return f"no kernel has {dtype}"
    if 0 in task.extents:
        return "there is nothing to compute"
    if len(task.terms) - 1 > MOST_INPUTS:
        return f"a kernel has at most {MOST_INPUTS} inputs"
    if len(task.terms) > 3 and not task.path:
        return "a step of several inputs needs its path"
    out, given = task.dtypes[-1], task.dtypes[:-1]
    if not is_complex(out) and any(is_complex(d) for d in given):
        return "the imaginary part would be lost"
    if out == "bool" and set(given) != {"bool"}:
        return "numbers would become bools"
    if task.semiring == "log_sum_exp" and not out.startswith(("float", "bfloat")):
        return f"log_sum_exp is not made of {out}"
    if not out.startswith(("float", "bfloat", "complex")) and any(
        d.startswith(("float", "bf")) for d in given
    ):
        return "fractions would be lost"
    if task.semiring not in ("sum_product", "or_and") and (
        out.startswith("uint") or set(task.dtypes) != {out}
    ):
        return f"no kernel converts in {task.semiring}"
    return None


@dataclass(frozen=True, slots=True)
class Choice:
    """How a task is computed (a tile config, or the library), and the predicted seconds of each candidate."""

    how: str
    kernel: float | None
    library: float
    reason: str = ""

    def __str__(self) -> str:
        kernel = self.reason if self.kernel is None else f"kernel {self.kernel * 1e6:.1f} us"
        return f"{kernel}, library {self.library * 1e6:.1f} us predicted"


@lru_cache(maxsize=4096)
def choice(task: Task, device: Gpu = H200) -> Choice:
    """Return how `task` is predicted to be computed fastest on values in order in memory."""
    reason = refusal(task)
    problem, _ = task.problem(task.in_order())
    library = aten_seconds(task, problem, device)
    if reason is not None:
        return Choice(LIBRARY, None, library, reason)
    found = best(problem, device)
    if found is None:
        return Choice(LIBRARY, None, library, "no tile fits on chip")
    config, prediction = found
    how = str(config) if prediction.seconds <= library or library_is_coarser(task, device) else LIBRARY
    return Choice(how, prediction.seconds, library)


def library_is_coarser(task: Task, device: Gpu) -> bool:
    """Return whether torch, as it has been set up, would multiply with fewer bits than `task` asks for."""
    return device.library_tf32 and task.precision != "fast" and task.dtypes[-1] in ("float32", "complex64")


@lru_cache(maxsize=4096)
def candidates(problem: Problem, device: Gpu = H200) -> tuple[tuple[TileConfig, Prediction], ...]:
    """Return the ranking of a problem's tile configs; a scalar without runs has the one of no blocks."""
    if not runs_of(problem):
        config = TileConfig(())
        found = Model(problem, device).predict(config)
        return () if found is None else ((config, found),)
    return tuple(ranked(problem, device))


TRIED = 6
"""Tile configs that are compiled at most to find one that does not spill."""


def trials(problem: Problem, device: Gpu = H200) -> list[tuple[TileConfig, Prediction]]:
    """Return the configs to compile in turn until one does not spill: the best of the ranking, of each shape one.

    With more stages a tile takes the same registers.
    """
    first: dict[object, tuple[TileConfig, Prediction]] = {}
    for config, prediction in candidates(problem, device):
        first.setdefault((config.blocks, config.warps, config.split, config.dots), (config, prediction))
    return list(first.values())[:TRIED]


def best(problem: Problem, device: Gpu = H200) -> tuple[TileConfig, Prediction] | None:
    """Return the tile config that is predicted to be fastest, or None if none fits."""
    found = candidates(problem, device)
    return found[0] if found else None


def aten_seconds(task: Task, problem: Problem, device: Gpu) -> float:
    """Return what torch is predicted to take: for a fused step, the sum over its pairwise steps."""
    if len(task.terms) <= 3:
        return library_seconds(problem, _copied(task), device, matmul=_is_product(task))
    return sum(aten_seconds(t, t.problem(t.in_order())[0], device) for t in pairwise_tasks(task))


def pairwise_tasks(task: Task) -> list[Task]:
    """Return the pairwise steps of a fused task; intermediates have the dtype of the output."""
    count = len(task.terms) - 1
    flags = task.conj or (False,) * count
    terms: list[Term] = list(task.terms[:-1])
    dtypes = list(task.dtypes[:-1])
    made: list[Task] = []
    for s, (one, two) in enumerate(task.path):
        last = s == len(task.path) - 1
        term = task.terms[-1] if last else kept_modes(task, s, terms)
        pair = (terms[one], terms[two], term)
        own = (one < count and flags[one], two < count and flags[two])
        made.append(
            replace(task, terms=pair, dtypes=(dtypes[one], dtypes[two], task.dtypes[-1]), conj=own, path=())
        )
        terms.append(term)
        dtypes.append(task.dtypes[-1])
    return made


def kept_modes(task: Task, s: int, terms: Sequence[Term]) -> Term:
    """Return the modes that step `s` of a task's path keeps, in an order its product leaves them in."""
    count = len(task.terms) - 1
    used = {i for ids in task.path[: s + 1] for i in ids}
    rest = [i for i in range(count + s) if i not in used]
    needed = {m for i in rest for m in terms[i]} | set(task.terms[-1])
    one, two = (terms[i] for i in task.path[s])
    kept = tuple(m for m in dict.fromkeys((*one, *two)) if m in needed)
    g = groups(one, two, kept)
    return (*g.batch, *g.rows, *g.columns)


def _is_product(task: Task) -> bool:
    """Return whether torch computes a task as a matrix product, or by moving memory once."""
    if len(task.terms) == 2:
        return True
    if task.semiring not in ("sum_product", "or_and"):
        return False
    g = groups(task.terms[0], task.terms[1], task.terms[2])
    return not g.summed or bool(g.rows or g.columns)


def _copied(task: Task) -> list[int]:
    """Return the values that torch copies into another order for a pairwise task: interleaved ones."""
    if len(task.terms) != 3:
        return []
    g = groups(*task.terms)
    copied = []
    wanted = ((g.batch, g.rows, g.summed), (g.batch, g.columns, g.summed))
    for at, (batch, free, summed) in enumerate(wanted):
        term = tuple(m for m in task.terms[at] if task.extents[m] != 1)
        if not _blocks(term, (batch, free, summed)):
            copied.append(at)
    out = tuple(m for m in task.terms[2] if task.extents[m] != 1)
    if not _blocks(out, (g.batch, g.rows, g.columns)):
        copied.append(2)
    return copied


def _blocks(term: Term, parts: Sequence[Term]) -> bool:
    """Return whether the modes of each part lie side by side in `term`, and its last mode is none of the batch."""
    kinds = [next((k for k, part in enumerate(parts) if m in part), -1) for m in term]
    changes = [k for k, kind in enumerate(kinds) if k == 0 or kinds[k - 1] != kind]
    whole = len(changes) == len(set(kinds))
    return whole and not (kinds and kinds[-1] == 0 and len(set(kinds)) > 1)


def chosen_config(how: str, problem: Problem, device: Gpu = H200) -> TileConfig | None:
    """Return the tile config that `how` names if it fits the runs of `problem`, else the one predicted to be best."""
    if how.startswith("tile"):
        config = parsed(how)
        if {name for name, _ in config.blocks} == {r.name for r in runs_of(problem)}:
            return config
    found = best(problem, device)
    return found[0] if found else None

"""What one contraction asks of compiled loops: modes that always go together folded into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from contractc.dtypes import wide, widens
from contractc.fused import ssa_terms
from contractc.notation import Term
from contractc.programs import Contract, Program
from contractc.providers.loops.forms import ORDERED
from contractc.providers.loops.text import DTYPES

SEMIRINGS = ("sum_product", "max_plus", "min_plus")
"""The semirings that loops compute in."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A contraction step by step: `steps[s]` reads the values (inputs first, then results) `reads[s]`.

    Modes are numbered anew; `members[m]` are the modes of the program that mode m stands for, outermost first.
    A mode whose extent is known at run time only has the extent it was planned with in `extents` and is in
    `dynamic`. `terms` are those of the inputs, then of the result of each step. `forms[k]` says how input k lies in
    memory: see `contractc.providers.loops.forms`; `aligned[k]` tells whether it begins at a cache line for certain.
    """

    terms: tuple[Term, ...]
    reads: tuple[tuple[int, ...], ...]
    extents: tuple[int, ...]
    dynamic: frozenset[int]
    members: tuple[Term, ...]
    dtypes: tuple[str, ...]
    conj: tuple[bool, ...]
    forms: tuple[int, ...]
    result: str
    semiring: str
    aligned: tuple[bool, ...]

    @property
    def inputs(self) -> int:
        """Return the number of inputs."""
        return len(self.dtypes)

    @property
    def out(self) -> Term:
        """Return the modes of the result."""
        return self.terms[-1]

    @property
    def work(self) -> str:
        """Return the dtype in which products are formed and added."""
        return wide(self.result)

    def size(self, term: Sequence[int]) -> int:
        """Return the number of positions of the modes in `term`, as planned."""
        extents = self.extents
        return prod([extents[m] for m in set(term)])

    def summed(self, step: int) -> Term:
        """Return the modes that step `step` sums over."""
        out = self.terms[self.inputs + step]
        return tuple(dict.fromkeys(m for i in self.reads[step] for m in self.terms[i] if m not in out))


def refused(program: Program, step: Contract) -> str | None:
    """Return why loops do not compute `step`, or None if they can."""
    known = program.values()
    values = [known[i] for i in step.inputs]
    dtypes = {v.dtype for v in values}
    if program.semiring not in SEMIRINGS:
        return f"loops do not compute in {program.semiring}"
    if len(step.inputs) > 2 and not step.path:
        return "a step of several inputs needs a path"
    if len(set(step.out.modes)) != len(step.out.modes):
        return "the result repeats a mode"
    unknown = sorted((dtypes | {step.out.dtype}) - set(DTYPES))
    if unknown:
        return f"loops do not know {unknown[0]}"
    if program.semiring != "sum_product" and wide(step.out.dtype) not in ("float32", "float64"):
        return f"loops in {program.semiring} are for floating numbers"
    narrowed = sorted(d for d in dtypes if not widens(d, step.out.dtype))
    if narrowed:
        return f"{narrowed[0]} would lose its meaning as {step.out.dtype}"
    if step.out.dtype == "bool" and dtypes != {"bool"}:
        return "the result is bool but an input is not"
    if 0 in (program.extents[m] for v in values for m in v.modes):
        return "there is nothing to loop over"
    return None


def problem_of(
    program: Program, step: Contract, forms: Sequence[int], aligned: Sequence[bool] = ()
) -> Problem:
    """Return `step` as loops see it; `forms[k]` says how input k lies in memory, `aligned[k]` whether at a line."""
    known = program.values()
    inputs = [known[i].modes for i in step.inputs]
    terms, reads = ssa_terms(inputs, step.out.modes, step.path)
    runs = _folds(inputs, step.out.modes, [f == ORDERED for f in forms])
    number = {run[0]: k for k, run in enumerate(runs)}
    dynamic = set(program.dynamic)
    return Problem(
        tuple(tuple(number[m] for m in term if m in number) for term in terms),
        reads,
        tuple(prod(program.extents[m] for m in run) for run in runs),
        frozenset(k for k, run in enumerate(runs) if dynamic.intersection(run)),
        tuple(runs),
        tuple(known[i].dtype for i in step.inputs),
        step.conj or (False,) * len(inputs),
        tuple(forms),
        step.out.dtype,
        program.semiring,
        tuple(aligned) or (False,) * len(inputs),
    )


def _folds(inputs: Sequence[Term], out: Term, ordered: Sequence[bool]) -> list[Term]:
    """Return runs of modes, each mode in one, that stand side by side wherever they occur."""
    terms = [*inputs, out]
    loose = {m for t, fine in zip(terms, [*ordered, True], strict=True) if not fine for m in t}
    loose |= {m for t in terms for m in t if t.count(m) > 1}
    runs: list[Term] = []
    for m in dict.fromkeys(m for t in terms for m in t):
        last = runs[-1][-1] if runs else -1
        together = all(_follows(t, last, m) for t in terms)
        if runs and together and not {m, last} & loose:
            runs[-1] = (*runs[-1], m)
        else:
            runs.append((m,))
    return runs


def _follows(term: Term, first: int, second: int) -> bool:
    """Return whether `term` has neither mode, or `second` right after `first`."""
    if first not in term and second not in term:
        return True
    return first in term and second in term and term.index(second) == term.index(first) + 1

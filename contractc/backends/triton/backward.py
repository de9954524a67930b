"""The gradients of a task: contractions again, with the gradient of the output in place of one input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from contractc.backends.triton.tasks import Task
from contractc.dtypes import is_complex
from contractc.notation import Term


def differentiable(task: Task) -> bool:
    """Return whether the derivative of a task is contractions: sums of products, each mode once in a term."""
    return task.semiring == "sum_product" and all(len(set(t)) == len(t) for t in task.terms)


def with_gradients(task: Task, back: Sequence[int]) -> list[Task]:
    """Return a task and those of its gradients by the inputs `back`; each is as much again where torch takes them."""
    if not differentiable(task):
        return [task] * (1 + len(back))
    return [task, *(gradient_task(task, k)[0] for k in back)]


def gradient_task(task: Task, at: int) -> tuple[Task, Term]:
    """Return the task that gives the gradient of input `at` from that of the output and the other inputs.

    Also returned are the modes that only this input has: the gradient is the same along them. For y = w x it is
    conj(w) g; for y = w conj(x) it is w conj(g), g the gradient of y as torch defines it.
    """
    count = len(task.terms) - 1
    flags = task.conj or (False,) * count
    others = [k for k in range(count) if k != at]
    seen = {m for k in (*others, count) for m in task.terms[k]}
    lone = tuple(m for m in task.terms[at] if m not in seen)
    terms = (task.terms[-1], *(task.terms[k] for k in others), tuple(m for m in task.terms[at] if m in seen))
    dtypes = (task.dtypes[-1], *(task.dtypes[k] for k in others), task.dtypes[at])
    if is_complex(task.dtypes[-1]) and not is_complex(task.dtypes[at]):
        dtypes = (*dtypes[:-1], task.dtypes[-1])
    conj = (flags[at], *(flags[k] ^ (not flags[at]) for k in others))
    path = _rerooted(task, at) if count > 2 else ()
    made = replace(
        task, terms=terms, dtypes=dtypes, conj=conj if is_complex(task.dtypes[-1]) else (), path=path
    )
    return made, lone


def _rerooted(task: Task, at: int) -> tuple[tuple[int, ...], ...]:
    """Return the path of the tree with the output where input `at` was: the gradient walks down to it."""
    count = len(task.terms) - 1
    number = {at: -1, -1: 0}
    number |= {k: j + 1 for j, k in enumerate(k for k in range(count) if k != at)}
    children = {count + s: ids for s, ids in enumerate(task.path)}
    path: list[tuple[int, ...]] = []

    def holds(i: int) -> bool:
        return i == at or any(holds(j) for j in children.get(i, ()))

    def built(i: int) -> int:
        if i not in children:
            return number[i]
        one, two = (built(j) for j in children[i])
        path.append((one, two))
        return count + len(path) - 1

    here, current = count + len(task.path) - 1, 0
    while here != at:
        one, two = children[here]
        down, side = (one, two) if holds(one) else (two, one)
        other = built(side)
        path.append((current, other))
        current = count + len(path) - 1
        here = down
    return tuple(path)

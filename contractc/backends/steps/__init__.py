"""Ways to compute one pairwise step on a CPU: what each would cost, in which order arrays are best read."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import NamedTuple

from contractc.backends.steps.forms import (
    COPIES,
    LEFT,
    RESULT,
    RIGHT,
    Axis,
    Form,
    arranged,
    form_in,
    fused,
    size_of,
)
from contractc.cost import (
    APART,
    BLAS,
    bandwidth,
    call_seconds,
    fresh_seconds,
    memory_seconds,
    pair_seconds,
    product_seconds,
)
from contractc.dtypes import itemsize
from contractc.machine import Machine
from contractc.notation import Term
from contractc.providers import NUMPY, TORCH

MATMUL, MULTIPLY, EINSUM, KRON = "matmul", "multiply", "einsum", "kron"


NARROW = f"{EINSUM}, by {TORCH}"
"""How a step runs whose operands and result are float16, or bfloat16: torch multiplies them without widening them."""


@dataclass(frozen=True, slots=True)
class Task:
    """A pairwise step: its operands and its result in memory order, modes of extent 1 left out.

    Every mode is in two of the three at least: what one operand alone sums has been summed before.
    """

    left: Term
    right: Term
    out: Term
    extents: tuple[int, ...]
    dtype: str

    def size(self, modes: Term) -> int:
        """Return the number of positions of `modes`."""
        return size_of(modes, self.extents)

    def giving(self, out: Term) -> Task:
        """Return this with its result in the order `out`."""
        return Task(self.left, self.right, out, self.extents, self.dtype)


class Way(NamedTuple):
    """One way to compute a step: the words that stand in `Contract.how`, and the predicted seconds."""

    how: str
    seconds: float


_SHORT = 512.0
"""Bytes that reading or writing one run of memory costs beside the run, where the array is larger than `_CACHE`."""

_CACHE = 2**21

_COPY_CALL = 2e-6
"""Seconds that any copy takes at least."""

_SLOW_READING = 1.5
"""How much longer np.einsum reads large arrays than a dot product does: 36 and 72 MB took 1.5 and 1.4 times as long."""

_EINSUM_RATES = {"float32": 4.0e9, "float64": 2.0e9, "complex64": 4.0e8, "complex128": 3.0e8}
"""Products a second that np.einsum forms and adds up in cache, along rows."""

_TALL = 1.08
"""How much longer a product beyond the caches takes whose result has many short rows rather than few long ones."""

_DEEP, _STRIP, _RUN = 384, 64.0, 150.0
"""Summed positions of which OpenBLAS first copies the left operand, all rows of it, into one panel; bytes of a row of
that operand, turned, that it reads at a time, and those with which memory is read at half its rate."""

_TURNED = {NUMPY: (3.5e-10, 0.0), TORCH: (0.0, 2.7e-11)}
"""Seconds, by element and by byte, of an operand whose fastest mode is summed while its other one is the fastest of the
result: its blocks are turned while they are packed, once for all rows. Few rows do not hide that."""

_ACROSS = 1.4e-10, 4.3e-11
"""Seconds, by element and by byte, of MKL for the operand with the rows if it is read across them, whatever the
columns: 512 x 512 in float32 takes 0.08 ms times 2 to 8 columns, the product with rows and columns exchanged 0.015 to
0.03; from 16 columns on there is little between the two."""


def flat(modes: Sequence[int], extents: Sequence[int], dynamic: Sequence[int]) -> Term:
    """Return `modes` without those of one position, which have no place in memory."""
    return tuple(m for m in modes if extents[m] != 1 or m in dynamic)


def words(strategy: str, copies: frozenset[str] = frozenset(), provider: str = NUMPY) -> str:
    """Return how a way is written in a program, such as `matmul, copy left, by torch`."""
    names = [strategy, *(name for name in (LEFT, RIGHT, RESULT) if name in copies)]
    return ", ".join(names if provider == NUMPY else [*names, f"by {provider}"])


def understood(how: str) -> tuple[str, frozenset[str], str]:
    """Return strategy, copies and provider of a way; raises ValueError if it is none."""
    names = how.split(", ")
    provider = names.pop().removeprefix("by ") if len(names) > 1 and names[-1].startswith("by ") else NUMPY
    strategy, copies = names[0], frozenset(names[1:])
    if strategy not in (MATMUL, MULTIPLY, EINSUM, KRON) or provider not in (NUMPY, TORCH):
        raise ValueError(f"{how!r:.60} is no way to compute a step")
    if not copies <= {LEFT, RIGHT, RESULT}:
        raise ValueError(f"{how!r:.60} is no way to compute a step")
    return strategy, copies, provider


def ways(
    task: Task,
    machine: Machine,
    providers: Sequence[str],
    least: float | None = None,
    known: dict[Hashable, float] | None = None,
) -> list[Way]:
    """Return the ways to compute `task`, the fastest first; there is one at least.

    Args:
        least: what `least_seconds` says of the task, if that is known.
        known: what single products take, by their extents; it grows.
    """
    in_out = set(task.out)
    summed = any(m not in in_out for m in task.left)
    usable = [p for p in providers if p == NUMPY or task.dtype in BLAS]
    found: list[Way] = []
    if not summed:
        found += [Way(words(MULTIPLY, provider=p), _multiply_seconds(task, machine, p)) for p in usable]
    elif task.dtype in BLAS:
        least = least_seconds(task, machine, usable) if least is None else least
        found += _products(task, machine, usable, least, {} if known is None else known)
    if not found or in_out.issubset(task.left) or in_out.issubset(task.right):
        found.append(Way(words(EINSUM), _einsum_seconds(task, machine)))
    return sorted(found, key=lambda way: way.seconds)


def _products(
    task: Task, machine: Machine, providers: Sequence[str], least: float, known: dict[Hashable, float]
) -> list[Way]:
    found: list[Way] = []
    best = inf
    width = itemsize(task.dtype)
    bound = {
        name: _copied_at_least(machine, task.size(modes) * width)
        for name, modes in ((LEFT, task.left), (RIGHT, task.right), (RESULT, task.out))
    }
    copied: dict[tuple[Term, Term], float] = {}
    for copies in COPIES:
        if best <= least + _COPY_CALL:
            break
        if sum([bound[name] for name in copies]) + least >= best:
            continue
        orders = arranged(task.left, task.right, task.out, copies)
        moved = _copies_seconds(task, machine, copies, orders, copied)
        if moved is None or moved + least >= best:
            continue
        form = form_in(*orders, task.extents)
        if form is None:
            continue
        for provider, taken in zip(
            providers, _form_seconds(task, form, machine, providers, known), strict=True
        ):
            if taken < inf:
                best = min(best, moved + taken)
                found.append(Way(words(MATMUL, copies, provider), moved + taken))
    return found


def _form_seconds(
    task: Task, form: Form, machine: Machine, providers: Sequence[str], known: dict[Hashable, float]
) -> list[float]:
    """Return the predicted seconds of the products of `form` by each provider, the result's memory included.

    They are infinite where it cannot do them; `known` as in `ways`.
    """
    extents, width = task.extents, itemsize(task.dtype)
    m, n, k = (size_of(x, extents) for x in (form.rows, form.columns, form.summed))
    loops = prod([size_of(axis, extents) for axis in form.loops])
    sums = prod([size_of(axis, extents) for axis in form.sums])
    first, operand = form.left, form.right
    if form.out and form.out[-1] == form.rows:  # in columns: the product of the turned matrices
        m, n, first, operand = n, m, form.right, form.left
    turned = n * k if form.rows and form.columns and operand[-1] == form.summed else 0
    waiting, hidden = _waiting(task, form, machine)
    tall = _TALL if n < m and m * n * width > _CACHE else 1.0
    large = task.left if first is form.left else task.right
    across = first[-1:] != (form.summed,)
    waits = {NUMPY: waiting + _packing(task, large, across, (m, n, k), machine)}
    found = []
    for provider in providers:
        if provider == TORCH and form.sums and form.loops:
            found.append(inf)
            continue
        key = provider, task.dtype, m, n, k
        if key not in known:
            known[key] = product_seconds(machine, provider, task.dtype, m, n, k)
        busy = tall * loops * sums * known[key]
        call = call_seconds(machine, provider)
        seconds = busy + call
        if turned:
            each, by_byte = _TURNED[provider]
            seconds += loops * sums * turned * (each + by_byte * width)
        if form.loops and provider == TORCH:
            seconds += _torch_loop_seconds(task, form, call)
        if form.sums:
            moved = 3 * m * n * width / bandwidth(machine, 3 * m * n * width)
            step = 5 * call if provider == NUMPY else call / 3  # two slices, a product, a sum
            seconds += sums * step + (sums - 1) * loops * moved
        seconds += max(0.0, waits.get(provider, waiting) - busy / 2)
        if provider == TORCH and across and m > 1 and n > 1:
            seconds = max(seconds, call + waiting + loops * sums * m * k * (_ACROSS[0] + _ACROSS[1] * width))
        found.append(seconds + hidden)
    return found


def _packing(task: Task, large: Term, turned: bool, product: tuple[int, int, int], machine: Machine) -> float:
    """Return the seconds for which OpenBLAS waits as it copies an operand, the `large` one with the rows, into panels.

    A panel of many rows goes to memory before it is used again: one of 25600 x 160 takes 11 ms times 160 x 32, as 160
    of 160 x 160 6.4. One that is read across its rows comes in short runs of memory: those 160 turned take 12.

    Args:
        turned: whether the operand is read across its rows as it lies in memory.
        product: rows, columns and summed positions of one product.
    """
    rows, columns, summed = product
    width, size = itemsize(task.dtype), task.size(large) * itemsize(task.dtype)
    if size <= _CACHE or rows == 1 or columns == 1:
        return 0.0
    written = size if min(summed, _DEEP) * rows * width > _CACHE else 0
    again = size * _RUN / _STRIP if turned else 0.0
    return memory_seconds(machine, again, written, 2 * size)


def _torch_loop_seconds(task: Task, form: Form, call: float) -> float:
    """Return the seconds of torch's loops: one axis inside a call if the result is contiguous, else one by one."""
    sizes = [task.size(axis) for axis in form.loops]
    count, inner = prod(sizes), sizes[-1]
    whole = len(form.out) - len(form.loops) == sum(1 for x in form.out[-2:] if x in (form.rows, form.columns))
    return count / inner * call / 2 + (
        0.0 if whole and form.out[-3:-2] == form.loops[-1:] else count * 1.5e-6
    )


def _waiting(task: Task, form: Form, machine: Machine) -> tuple[float, float]:
    """Return the seconds for which products wait for memory, if no arithmetic hides it, and those of new memory.

    Short runs of memory take longer than their bytes: whole cache lines and pages are moved. A run goes on where the
    next product begins with the byte after it.
    """
    width = itemsize(task.dtype)
    sizes = [size_of(modes, task.extents) * width for modes in (task.left, task.right, task.out)]
    total = sum(sizes)
    if max(sizes) <= _CACHE:
        return memory_seconds(machine, total - sizes[2], sizes[2], 2 * total), 0.0
    matrix = (form.rows, form.columns, form.summed)
    repeated = (*form.sums, *form.loops)
    moved = []
    for axes in (form.left, form.right, form.out):
        size = run = width
        in_turn = axes == (*(x for x in repeated if x in axes), *(x for x in axes if x in matrix))
        inside = True
        for axis in reversed(axes):
            inside = inside and (in_turn or axis in matrix)
            extent = task.size(axis)
            size *= extent
            run *= extent if inside else 1
        times = _readings(task, axes, matrix, repeated, width)
        moved.append(times * size * (1 + (_SHORT / run if size > _CACHE and run < size else 0.0)))
    waiting = memory_seconds(machine, moved[0] + moved[1], moved[2], 2 * total)
    return waiting, fresh_seconds(machine, sizes[2])


def _readings(
    task: Task, axes: Sequence[Axis], matrix: Sequence[Axis], repeated: Sequence[Axis], width: int
) -> int:
    """Return how often an array comes from memory: again for each turn of a loop that has it all read inside."""
    inside, times = width, 1
    for axis in axes:
        inside *= task.size(axis) if axis in matrix else 1
    for axis in reversed(repeated):
        if axis in axes:
            inside *= task.size(axis)
        elif inside > _CACHE:
            times *= task.size(axis)
    return times


def least_seconds(task: Task, machine: Machine, providers: Sequence[str]) -> float:
    """Return the seconds of `task` if all its groups of modes were one axis each, in the best order."""
    if task.dtype not in BLAS:
        return 0.0
    return pair_seconds(task.left, task.right, task.out, task.extents, task.dtype, machine, providers)


def _copies_seconds(
    task: Task,
    machine: Machine,
    copies: frozenset[str],
    orders: tuple[Term, Term, Term],
    known: dict[tuple[Term, Term], float],
) -> float | None:
    """Return the seconds of `copies`, after which the arrays have `orders`, or None if one would change nothing.

    `known` are those of single copies, from one order to another, as far as they were needed.
    """
    seconds = 0.0
    for name, old, new in zip((LEFT, RIGHT, RESULT), (task.left, task.right, task.out), orders, strict=True):
        if name in copies:
            if old == new:
                return None
            if (old, new) not in known:
                known[old, new] = copy_seconds(machine, old, new, task.extents, itemsize(task.dtype))
            seconds += known[old, new]
    return seconds


def copy_seconds(machine: Machine, old: Term, new: Term, extents: Sequence[int], width: int) -> float:
    """Return the predicted seconds of copying an array from one memory order to another; 0 if they are equal."""
    if old == new:
        return 0.0
    before, after = fused((old, new))
    size = size_of(old, extents) * width
    rate = bandwidth(machine, 2 * size)
    run = size_of(before[-1], extents) * width
    if before[-1] == after[-1]:
        rate *= run / (run + 64)
    else:
        rate = min(rate, machine.permuting if 2 * size > 2**21 else 1.5 * machine.permuting)
    return 2 * size / rate + _COPY_CALL + fresh_seconds(machine, size)


def _copied_at_least(machine: Machine, size: int) -> float:
    """Return seconds that a copy of `size` bytes takes whatever the orders are."""
    return 2 * size / bandwidth(machine, 2 * size) + _COPY_CALL


def _multiply_seconds(task: Task, machine: Machine, provider: str) -> float:
    width = itemsize(task.dtype)
    made = task.size(task.out)
    read = (task.size(task.left) + task.size(task.right)) * width
    axes = fused((task.left, task.right, task.out))
    run = task.size(axes[2][-1]) if axes[2] else 1
    each = 8e-9 if provider == NUMPY else 5e-9
    seconds = (
        memory_seconds(machine, read, made * width) + made / run * each + call_seconds(machine, provider)
    )
    for modes, own in ((task.left, axes[0]), (task.right, axes[1])):
        if own and axes[2] and axes[2][-1] in own and own[-1] != axes[2][-1]:
            seconds += made * (1e-9 if task.size(modes) * width < _CACHE else 3e-9)
    return seconds + fresh_seconds(machine, made * width)


def _einsum_seconds(task: Task, machine: Machine) -> float:
    width = itemsize(task.dtype)
    count = task.size(tuple(dict.fromkeys((*task.left, *task.right))))
    terms = (task.left, task.right, task.out)
    read, made = (task.size(task.left) + task.size(task.right)) * width, task.size(task.out) * width
    largest = max(range(3), key=lambda k: task.size(terms[k]))
    arrays = fused(terms)
    axes, out = arrays[largest], arrays[2]
    run = task.size(axes[-1]) if axes else 1
    rate = _EINSUM_RATES.get(task.dtype, 1.0e9)
    apart = 0
    if out and axes and axes[-1] in out and axes[-1] != out[-1]:
        rate /= 2  # it goes along the result, so not along rows
        within = axes[axes.index(out[-1]) :] if out[-1] in axes else axes
        apart = count if prod([task.size(axis) for axis in within]) * width > _CACHE else 0
    seconds = max(count / rate, _SLOW_READING * memory_seconds(machine, read, made, 2 * (read + made)))
    return seconds + count / run * 1.2e-8 + apart * APART + 2e-6 + fresh_seconds(machine, made)

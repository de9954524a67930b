"""Passes of the CPU: the memory order of what steps make, and the way in which each step is computed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from contractc.backends.steps import NARROW, Task, Way, least_seconds, ways
from contractc.backends.steps.forms import natural_orders
from contractc.backends.steps.tasks import task_of
from contractc.cost import bandwidth
from contractc.dtypes import itemsize
from contractc.machine import Machine
from contractc.notation import Term
from contractc.programs import Contract, Loop, Program, Step, Value
from contractc.providers import TORCH, loops

MOST_LETTERS = 52
"""Modes that an equation of torch.einsum can name."""

NEGLIGIBLE = 2e-6
"""Seconds a call that a better order of an intermediate has to save: looking for one takes a hundred times as long."""

LEAST_GAIN, RESULT_GAIN = 0.999, 0.98
"""The part of the seconds that an order has to take to be preferred to another, and to that in which a result is asked
for: who reads results is not known, and most read them best in C order."""


def free_results(program: Program) -> Program:
    """Return `program` with large results made in an order of their own and given as a view in the order asked.

    Before:  %2: [k, i] = contract %0: [i, j] %1: [j, k],  return %2
    After:   %3: [k, i] = contract %0: [i, j] %1: [j, k],  %2: [k, i] = contract %3,  return %2
    """
    known = program.values()
    read = {i for step in program.steps for i in step.inputs}
    number = 1 + max(known, default=0)
    steps: list[Step] = []
    for step in program.steps:
        steps.append(step)
        if (
            not isinstance(step, Contract)
            or step.out.number not in program.results
            or step.out.number in read
        ):
            continue
        out = step.out
        if (
            task_of(program, step, known) is None
            or len(set(out.modes)) != len(out.modes)
            or len(out.modes) < 2
        ):
            continue
        steps[-1] = replace(step, out=replace(out, number=number))
        steps.append(Contract(out, (number,)))
        number += 1
    return replace(program, steps=tuple(steps))


def arranged(
    program: Program, machine: Machine, providers: Sequence[str], prices: Prices | None = None
) -> Program:
    """Return `program` after `layout` and `choose`, which price each task once between them."""
    prices = prices or Prices(machine, tuple(providers))
    return choose(layout(program, machine, providers, prices), machine, providers, prices)


def layout(
    program: Program, machine: Machine, providers: Sequence[str], prices: Prices | None = None
) -> Program:
    """Return `program` with what large steps make in the memory order that is predicted to cost least.

    For every value the orders in which matrix products leave it are compared, and those in which a reader
    would read it without a copy: by the seconds of the step that makes it and of those that read it. What a step
    reads whose way has been chosen already stays as it is.

    Before:  %3: [k, i] = contract %0: [i, j] %1: [j, k],  %2: [k, i] = contract %3
    After:   %3: [i, k] = contract %0: [i, j] %1: [j, k],  %2: [k, i] = contract %3
    """
    known = dict(program.values())
    fixed = {*program.results, *(i for step in program.steps if _is_decided(step) for i in step.inputs)}
    readers: dict[int, list[Contract]] = {}
    for step in program.steps:
        if isinstance(step, Contract):
            for i in dict.fromkeys(step.inputs):
                readers.setdefault(i, []).append(step)
    prices = prices or Prices(machine, tuple(providers))
    steps: list[Step] = []
    for step in program.steps:
        if isinstance(step, Loop):
            step = replace(step, body=layout(step.body, machine, providers, prices))
        elif isinstance(step, Contract) and step.out.number not in fixed:
            task = task_of(program, step, known)
            if task is not None and len(set(step.out.modes)) == len(step.out.modes):
                reading = readers.get(step.out.number, ())
                order, _ = cheapest(program, step, task, reading, known, prices)
                step = replace(step, out=replace(step.out, modes=order))
                known[step.out.number] = step.out
        steps.append(step)
    return replace(program, steps=tuple(steps))


def _is_decided(step: Step) -> bool:
    """Return whether a step reads its operands in the order that they have now; loops are made for any."""
    return not isinstance(step, Contract) or (step.how != "" and not loops.is_loop(step.how))


@dataclass(frozen=True, slots=True)
class Prices:
    """Predicted seconds of tasks, each computed once; all are of one machine and its providers."""

    machine: Machine
    providers: tuple[str, ...]
    known: dict[Task, Way] = field(default_factory=dict)
    least: dict[tuple[frozenset[int], ...], float] = field(default_factory=dict)
    products: dict[Hashable, float] = field(default_factory=dict)

    def best(self, task: Task) -> Way:
        """Return the best way to compute `task`."""
        found = self.known.get(task)
        if found is None:
            listed = ways(task, self.machine, self.providers, self._product(task), self.products)
            found = self.known[task] = listed[0]
        return found

    def seconds(self, task: Task) -> float:
        """Return the seconds of the best way to compute `task`."""
        return self.best(task).seconds

    def suited(self, task: Task) -> float:
        """Return the seconds of `task` if its result may have the order that suits a product.

        Its fastest modes are those of the operand that need not be turned for that, else the longer ones.
        """
        outs = natural_orders(task.left, task.right, task.out)
        turned = [x[-1:] != () and x[-1] not in task.out for x in (task.left, task.right)]
        if turned[0] != turned[1]:
            return self.seconds(task.giving(outs[0] if turned[0] else outs[-1]))
        rows = task.size(tuple([m for m in task.left if m not in task.right]))
        columns = task.size(tuple([m for m in task.right if m not in task.left]))
        return self.seconds(task.giving(outs[0] if columns >= rows else outs[-1]))

    def floor(self, task: Task) -> float:
        """Return seconds that no order of the arrays of `task` can do much better than."""
        out = set(task.out)
        if out >= set(task.left) or out <= set(task.left) or out <= set(task.right):  # no product, maybe
            moved = sum(task.size(x) for x in (task.left, task.right, task.out)) * itemsize(task.dtype)
            return min(self._product(task), moved / bandwidth(self.machine, moved))
        return self._product(task)

    def _product(self, task: Task) -> float:
        key = frozenset(task.left), frozenset(task.right), frozenset(task.out)
        if key not in self.least:
            self.least[key] = least_seconds(task, self.machine, self.providers)
        return self.least[key]


def cheapest(
    program: Program,
    step: Contract,
    task: Task,
    readers: Sequence[Contract],
    known: Mapping[int, Value],
    prices: Prices,
) -> tuple[Term, float]:
    """Return the order of the modes of `step.out` for which making and reading it cost least, and the seconds."""
    ones = tuple(m for m in step.out.modes if m not in task.out)
    given = any(len(reader.inputs) == 1 and reader.out.number in program.results for reader in readers)
    gain = RESULT_GAIN if given else LEAST_GAIN
    orders = natural_orders(task.left, task.right, task.out)
    later: list[tuple[Task, int, bool]] = []
    for reader in readers:
        found = task_of(program, reader, known)
        if found is not None:
            mine = 0 if reader.inputs[0] == step.out.number else 1
            orders += _orders_for(found, mine, task.out)
            later.append((found, mine, reader.out.number not in program.results))
    least = sum([prices.floor(found) for found, _, _ in later])
    floor = prices.floor(task) + least
    best, chosen = float("inf"), task.out
    for order in dict.fromkeys([task.out, *orders] if given else [*orders, task.out]):
        seconds = prices.seconds(task.giving(order))
        if seconds + least >= best * gain:
            continue
        for found, mine, free in later:
            own = tuple([m for m in order if m in (found.left, found.right)[mine]])
            read = replace(found, left=own) if mine == 0 else replace(found, right=own)
            seconds += prices.suited(read) if free else prices.seconds(read)
        if seconds < best * gain:
            best, chosen = seconds, order
        if best < 1.02 * floor + NEGLIGIBLE:
            break
    return (*ones, *chosen), best


def _orders_for(task: Task, mine: int, modes: Term) -> list[Term]:
    """Return the orders of `modes` in which `task` reads its operand number `mine` as one matrix."""
    other = task.right if mine == 0 else task.left
    summed = tuple(m for m in other if m in modes and m not in task.out)
    batch = tuple(m for m in other if m in modes and m in task.out)
    free = tuple(m for m in modes if m not in other)
    return [(*batch, *free, *summed), (*batch, *summed, *free)]


def choose(
    program: Program, machine: Machine, providers: Sequence[str], prices: Prices | None = None
) -> Program:
    """Return `program` with the way to compute it written into each large pairwise step.

    Before:  %2: [i, k] = contract %0 %1 over j  # gemm
    After:   %2: [i, k] = contract %0 %1 over j  # gemm, matmul
    """
    known = program.values()
    prices = prices or Prices(machine, tuple(providers))
    steps: list[Step] = []
    for step in program.steps:
        if isinstance(step, Loop):
            step = replace(step, body=choose(step.body, machine, providers, prices))
        elif isinstance(step, Contract) and not step.how:
            task = task_of(program, step, known)
            if task is not None and TORCH in providers and _is_narrow(step, known):
                step = replace(step, how=NARROW)
            elif task is not None:
                step = replace(step, how=prices.best(task).how)
        steps.append(step)
    return replace(program, steps=tuple(steps))


def _is_narrow(step: Contract, known: Mapping[int, Value]) -> bool:
    """Return whether `step` sums products of two arrays of one narrow dtype that torch can multiply as they are."""
    terms = [known[i].modes for i in step.inputs]
    distinct = all(len(set(t)) == len(t) for t in (*terms, step.out.modes))
    dtypes = {step.out.dtype, *(known[i].dtype for i in step.inputs)}
    return distinct and len({*terms[0], *terms[1]}) <= MOST_LETTERS and dtypes in ({"float16"}, {"bfloat16"})

"""Plans of several outputs within a limit of memory: what waits for a later step is dropped and computed again.

Between its first and its last reader an intermediate of a value waits for the way back. Where too much waits, that is
given up which costs the fewest seconds a byte to compute again, until the rest fits: greedy, as in T. Chen et al.,
"Training deep nets with sublinear memory cost" (2016), whose segments are chosen here by price.
"""

from __future__ import annotations

from dataclasses import replace

from contractc.cost import Costs, priced, step_costs
from contractc.dtypes import itemsize, wide
from contractc.machine import DEFAULT_MACHINE, Machine
from contractc.plans import Plan, kept_terms

MOST_ROUNDS = 4
"""Values given up at most, for each step of the plan."""


def recomputed(plan: Plan, limit: int, machine: Machine = DEFAULT_MACHINE) -> Plan | None:
    """Return `plan` with some of its steps done again so that its peak is within `limit` bytes, or None if none is.

    Of equal price the value made first is given up. The steps done again stand right before the first that reads what
    they make.
    """
    fixed = plan.network.bytes_of_inputs()
    work = _Work(plan, machine)
    for _ in range(MOST_ROUNDS * len(plan.path)):
        peaks = [step.peak for step in work.costs]
        worst = max(range(len(peaks)), key=peaks.__getitem__, default=None)
        if worst is None or fixed + peaks[worst] <= limit:
            again = len(work.order) - len(plan.path)
            made = replace(
                plan, path=work.path(), results=work.results(), search=f"{plan.search}, {again} steps again"
            )
            return priced(made, machine) if again else plan
        if not work.give_up(worst):
            return None
    return None


class _Work:
    """The steps so far, in order, each with a name that stays: tensors are 0 .. count - 1."""

    def __init__(self, plan: Plan, machine: Machine) -> None:
        self.plan, self.machine = plan, machine
        self.count = len(plan.network.tensors)
        self.order = [self.count + s for s in range(len(plan.path))]
        self.reads = {self.count + s: ids for s, ids in enumerate(plan.path)}
        self.kept = set(plan.results)
        terms = kept_terms(plan.network, plan.path, plan.results)
        width = itemsize(wide(plan.network.dtype))
        self.bytes = {n: plan.network.size(set(terms[n])) * width for n in self.order}
        self.costs: list[Costs] = []
        self._measure()
        self.seconds = {n: c.seconds for n, c in zip(self.order, self.costs, strict=True)}

    def path(self) -> tuple[tuple[int, ...], ...]:
        """Return the steps as an SSA path."""
        place = self._places()
        return tuple(tuple(sorted(place[i] for i in self.reads[n])) for n in self.order)

    def results(self) -> tuple[int, ...]:
        """Return the ids of the outputs in that path."""
        place = self._places()
        return tuple(place[r] for r in self.plan.results)

    def give_up(self, worst: int) -> bool:
        """Drop the value that waits during step number `worst` and is cheapest to make again; False if none waits."""
        now = set(self.reads[self.order[worst]])
        best: tuple[float, int, int, list[int]] | None = None
        for name in self.order[:worst]:
            if name in self.kept or name in now or not self.bytes[name]:
                continue
            later = [k for k in range(worst + 1, len(self.order)) if name in self.reads[self.order[k]]]
            if not later:
                continue
            chain = self._chain(name, later[0])
            price = sum(self.seconds[n] for n in chain) / self.bytes[name]
            if best is None or (price, name) < best[:2]:
                best = price, name, later[0], chain
        if best is None:
            return False
        _, name, at, chain = best
        fresh = 1 + max(self.order)
        renamed = {n: fresh + k for k, n in enumerate(chain)}
        for n, new in renamed.items():
            self.reads[new] = tuple(renamed.get(i, i) for i in self.reads[n])
            self.bytes[new], self.seconds[new] = self.bytes[n], self.seconds[n]
        for n in self.order[at:]:
            self.reads[n] = tuple(renamed[name] if i == name else i for i in self.reads[n])
        self.order[at:at] = renamed.values()
        self._measure()
        return True

    def _chain(self, name: int, at: int) -> list[int]:
        """Return the steps that make `name` again before step number `at`, in order, from what is there then."""
        found: list[int] = []
        for i in self.reads[name]:
            there = i < self.count or i in self.kept or any(i in self.reads[n] for n in self.order[at:])
            if not there:
                found += [n for n in self._chain(i, at) if n not in found]
        return [*found, name]

    def _places(self) -> dict[int, int]:
        place = {k: k for k in range(self.count)}
        return place | {n: self.count + s for s, n in enumerate(self.order)}

    def _measure(self) -> None:
        self.costs = step_costs(self.plan.network, self.path(), self.results(), (), self.machine)

"""What a kernel is predicted to take on a GPU, and what the library's own product is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil, prod

from contractc.backends.triton.problem import ACCUMULATED, Problem, adjacent_runs, runs_of, splittable
from contractc.backends.triton.tiles import TileConfig, is_dot, nodes_of, parts_of, roles_of, span
from contractc.dtypes import is_complex, itemsize
from contractc.machine import H200, Gpu

MOST_REGISTERS = 160
"""32-bit registers of a thread that tiles may take; the rest of 255 holds addresses."""

MOST_ELEMENTS = 2**15
"""Most elements of one tile."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one kernel costs: seconds; bytes from memory and from the L2 cache, operations, programs."""

    seconds: float
    traffic: float
    reads: float
    flops: float
    programs: int


@dataclass(slots=True)
class _Totals:
    """Sums over the nodes of one program."""

    loads: dict[int, float] = field(default_factory=dict)
    dots: float = 0.0
    others: float = 0.0
    turns: float = 0.0
    registers: float = 0.0
    shared: float = 0.0
    exchanged: float = 0.0
    refused: bool = False


class Model:
    """The parts of a prediction that do not depend on the tile config."""

    def __init__(self, problem: Problem, device: Gpu = H200) -> None:
        self.problem, self.device = problem, device
        self.runs = runs_of(problem)
        self.nodes = nodes_of(problem, self.runs)
        self.count = len(problem.inputs)
        self.root = self.count + len(problem.path) - 1
        self.sizes = {r.name: problem.size(r.modes) for r in self.runs}
        self.roles = {n: roles_of(node, self.nodes) for n, node in self.nodes.items() if node.children}
        self.kept = {n: tuple(r.name for r in node.kept) for n, node in self.nodes.items()}
        self.summed = {n: tuple(r.name for r in node.summed) for n, node in self.nodes.items()}
        self.parts = parts_of(problem)
        self.accumulated = itemsize(ACCUMULATED.get(problem.dtype, problem.dtype)) * self.parts
        self.work = itemsize(problem.dtype) // self.parts
        self.unique = [problem.bytes_of(at) for at in range(self.count + 1)]
        self.widths = [itemsize(v.dtype) for v in problem.values]
        self.near = [self._near(at) for at in range(self.count + 1)]

    @cached_property
    def splittable(self) -> bool:
        """Return whether the sum of the problem can be split; see `problem.splittable`."""
        return splittable(self.problem)

    def predict(self, config: TileConfig) -> Prediction | None:
        """Return what a kernel is predicted to take, or None if its tiles do not fit on chip."""
        blocks, device = dict(config.blocks), self.device
        tiles = {r.name: -(-self.sizes[r.name] // blocks[r.name]) for r in self.runs}
        programs = config.split
        for r in self.runs:
            programs *= 1 if r.summed else tiles[r.name]
        totals = _Totals()
        self._walk(self.root, blocks, tiles, 1.0, config, totals)
        if totals.refused or programs >= 2**31:
            return None
        if totals.registers / 4 / (32 * config.warps) > MOST_REGISTERS:
            return None
        if totals.shared * max(1, config.stages - 1) + totals.exchanged > device.shared:
            return None
        stored = self._sectors(self.count, blocks) * self.unique[self.count]
        traffic = stored
        for at in range(self.count):
            read = totals.loads.get(at, 0.0) * programs
            again = read / max(1, self.unique[at])
            traffic += min(read, self.unique[at] * max(1.0, min(4.0, again / 8)))
        if config.split > 1:
            traffic += 2 * self.unique[self.count] / self.work * self.accumulated * config.split
        reads = sum(totals.loads.values()) * programs + stored
        waves = ceil(programs / device.processors)
        filled = programs / (waves * device.processors) if waves < 8 else 1.0
        busy = min(1.0, programs * config.warps / (device.processors * 8))
        arithmetic = totals.dots / device.dot_rate(self.problem.dtype, self.problem.precision)
        arithmetic += totals.others / (device.scalar * self._scalar_share())
        arithmetic *= programs / filled
        memory = max(traffic / device.bandwidth, reads / device.l2) / busy
        together = device.processors * max(1, 16 // config.warps)
        turns = totals.turns * device.turn * ceil(programs / together)
        seconds = max(arithmetic, memory, turns) + 0.1 * min(arithmetic, memory)
        seconds += device.launch * (2 if config.split > 1 else 1)
        return Prediction(seconds, traffic, reads, (totals.dots + totals.others) * programs, programs)

    def _scalar_share(self) -> float:
        dtype = self.problem.dtype
        if dtype in ("float64", "complex128"):
            return 0.5
        return 0.25 if dtype == "int64" else 1.0

    def _sectors(self, at: int, blocks: Mapping[str, int]) -> float:
        """Return how many bytes a value's access moves for each byte it needs: memory moves 32 at a time."""
        inside = 1
        for name, size in self.near[at]:
            block = blocks[name]
            if block < size:
                inside *= block
                break
            inside *= size
        return max(1.0, 32 / (inside * self.widths[at]))

    def _near(self, at: int) -> list[tuple[str, int]]:
        """Return the runs along which a value lies side by side in memory, fastest first, and for how many elements."""
        chain = adjacent_runs(self.problem, self.runs, at)
        unit = self.problem.values[at].unit
        if chain or unit is None:
            return [(run.name, self.sizes[run.name]) for run, _ in chain]
        run = next(r for r in self.runs if unit in r.modes)
        return [(run.name, self.problem.extents[unit])] if run.modes[-1] == unit else []

    def _walk(
        self,
        number: int,
        blocks: Mapping[str, int],
        tiles: Mapping[str, int],
        times: float,
        config: TileConfig,
        totals: _Totals,
    ) -> None:
        """Add up what computing a node `times` times in one program costs, until it is found not to fit."""
        if totals.refused:
            return
        node = self.nodes[number]
        if not node.children:
            size = _elements(self.kept[number], blocks)
            totals.refused |= size > MOST_ELEMENTS
            moved = size * self.widths[number] * self._sectors(number, blocks)
            totals.loads[number] = totals.loads.get(number, 0.0) + moved * times
            return
        roles = self.roles[number]
        turns = 1
        for name in self.summed[number]:
            turns *= tiles[name]
        turns = -(-turns // (config.split if number == self.root else 1))
        dot = len(node.children) == 2 and is_dot(self.problem, roles, blocks)
        made = _elements(self.kept[number], blocks)
        work = made * _elements(self.summed[number], blocks)
        products = 1 if self.parts == 1 else config.dots if dot else 4
        arithmetic = 2 * work * products * turns * times
        if dot:
            depth = span(roles.shared, blocks)
            factors = (
                (span(roles.rows, blocks) + span(roles.columns, blocks))
                * depth
                * self.work
                * (self.parts if config.dots == 4 else 3)
            )
            totals.dots += arithmetic
            if self.problem.precision == "default" and self.work == 4:
                totals.registers += 2 * factors  # each factor as two tf32 parts
            if self.work == 8:
                totals.registers += factors  # there is no product of float64 that reads shared memory
            totals.refused |= self.problem.precision == "strict" and self.work == 4 and depth > 16
            totals.refused |= made > MOST_ELEMENTS
            if turns > 1:
                totals.shared = max(totals.shared, factors)
            else:
                totals.exchanged = max(totals.exchanged, factors)
        else:
            totals.others += arithmetic
            totals.refused |= work * self.accumulated > 32768 * config.warps // 4
            totals.registers += work * self.accumulated * 2
        totals.registers += made * self.accumulated * (1.5 if dot and config.dots == 3 else 1)
        totals.turns += turns * times
        looped = [name for name in self.summed[number] if tiles[name] > 1]
        for child in node.children:
            below = self.kept[child]
            size = _elements(below, blocks) * self.accumulated
            computed = bool(self.nodes[child].children)
            totals.registers += size * (0.5 if computed and dot else 0 if dot else 1)
            if computed:
                totals.exchanged = max(totals.exchanged, size)
            inside = any(name in below for name in looped)
            self._walk(child, blocks, tiles, times * (turns if inside else 1), config, totals)


def _elements(names: Sequence[str], blocks: Mapping[str, int]) -> int:
    """Return the elements of a tile over the runs of these names."""
    return prod([blocks[name] for name in names])


def library_seconds(
    problem: Problem, copied: Sequence[int], device: Gpu = H200, *, matmul: bool = True
) -> float:
    """Return what the library is predicted to take for a step: a matrix product, and copies of the values `copied`.

    What is no matrix product is multiplied into an intermediate of full size and summed (as torch does).
    """
    everything = 1
    for n in problem.extents:
        everything *= n
    moved = sum(problem.bytes_of(at) for at in range(len(problem.inputs) + 1))
    copies = sum(2 * problem.bytes_of(at) for at in copied)
    seconds = device.launch * (1 + len(copied)) + copies / device.permuting
    if matmul:
        flops = 2 * everything * (4 if is_complex(problem.dtype) else 1)
        rate = device.library_rate(problem.dtype)
        return seconds + max(flops / rate, moved / device.bandwidth)
    return seconds + device.launch + (moved + 2 * everything * itemsize(problem.dtype)) / device.bandwidth

"""Problem and tile config -> the source of one Triton kernel.

A kernel is a tree of tiles: each node of the path is computed inside the loops over the runs that it sums over, what
does not depend on a loop stands before it, and only the last node is written to memory. Only numbers reach the
source. The header has the same number of lines in every source: Triton's cache key contains a function's line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from contractc.backends.triton.addresses import Addresses, letter
from contractc.backends.triton.memory import Tile, load, store
from contractc.backends.triton.problem import ACCUMULATED, Problem, Run, runs_of
from contractc.backends.triton.tiles import (
    Node,
    Roles,
    TileConfig,
    is_dot,
    nodes_of,
    parts_of,
    roles_of,
    span,
)
from contractc.dtypes import is_complex

GENERATOR = 2
"""Raised when the generated code changes; what was tuned for another number is not trusted."""

HEADER_LINES = 8
_PRECISION = {"strict": "ieee", "default": "tf32x3", "fast": "tf32"}
_RINGS = {
    "sum_product": ("*", "tl.sum", "{} + {}"),
    "or_and": ("*", "tl.sum", "{} + {}"),
    "max_plus": ("+", "greater", "greater({}, {})"),
    "min_plus": ("+", "smaller", "smaller({}, {})"),
    "max_times": ("*", "greater", "greater({}, {})"),
    "log_sum_exp": ("+", "log_add_exp", "log_add_exp({}, {})"),
}
"""Multiplication, reduction and addition of each semiring, as code."""

SEMIRINGS = tuple(_RINGS)
"""The semirings that kernels are made for."""


@dataclass(frozen=True, slots=True)
class Source:
    """A generated kernel: its text, its parameters, and what the launch has to know.

    `tiles` are (run, block) for the axes of the grid; `loops` the same for the loop that is split.
    """

    text: str
    extents: tuple[int, ...]
    strides: tuple[tuple[int, int], ...]
    grid: tuple[tuple[Run, int], ...]
    types: tuple[str, ...]


def source_of(problem: Problem, config: TileConfig, *, interpret: bool = False) -> Source:
    """Return the kernel for `problem` with the tiles of `config`.

    With `interpret` (for tests only) narrow tiles become float32 after loading: Triton's interpreter adds and
    multiplies bfloat16 as raw bits.
    """
    return Writer(problem, config, interpret).write()


class Writer:
    """The kernel written so far."""

    def __init__(self, problem: Problem, config: TileConfig, interpret: bool) -> None:
        self.problem, self.config, self.interpret = problem, config, interpret
        self.runs = runs_of(problem)
        self.blocks: Mapping[str, int] = dict(config.blocks)
        assert set(self.blocks) == {r.name for r in self.runs}, f"{config} does not fit {problem}"
        self.nodes = nodes_of(problem, self.runs)
        self.root = len(problem.inputs) + len(problem.path) - 1
        self.by_name = {r.name: r for r in self.runs}
        self.at = Addresses(problem, self.runs, self.blocks)
        self.accumulated = ACCUMULATED.get(problem.dtype, problem.dtype)
        if problem.semiring not in ("sum_product", "or_and") and problem.dtype.startswith(("int", "uint")):
            self.accumulated = problem.dtype
        self.complex = parts_of(problem) == 2
        self.lines: list[str] = []
        self.depth = 1
        self.temporaries = 0
        self.multiply, self.reduce, self.add = _RINGS[problem.semiring]

    def write(self) -> Source:
        """Return the whole source."""
        problem, at = self.problem, self.at
        names = [letter(i, len(problem.inputs)) for i in range(len(problem.inputs))] + ["out"]
        parameters = [*names, *(f"e{m}" for m in problem.dynamic), *(n for n, _, _ in at.run_time_strides())]
        grid = self._coordinates()
        tile = self._node(self.root)
        store(self, tile)
        body = self.lines
        used = "\n".join([*body, *at.functions])
        helpers = [
            n
            for n in ("greater", "grouped", "log_add_exp", "rounded", "smaller", "wide")
            if f"{n}(" in used or f", {n})" in used
        ]
        legend = [f"# {line}" for line in self._legend()]
        text = [
            '"""A generated kernel; see docs/kernels.md."""',
            "",
            "import triton",
            "import triton.language as tl",
            "",
            f"from contractc_kernels.tiles import {', '.join(helpers)}" if helpers else "",
            "",
            "",
            *at.functions,
            "@triton.jit",
            f"def kernel({', '.join(parameters)}):",
            *("    " + line for line in legend),
            *body,
        ]
        assert text[HEADER_LINES - 1] == ""
        return Source(
            "\n".join(text) + "\n",
            problem.dynamic,
            tuple((at_, m) for _, at_, m in at.run_time_strides()),
            grid,
            tuple(v.dtype for v in problem.values),
        )

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def name(self) -> str:
        """Return a name not used yet."""
        self.temporaries += 1
        return f"t{self.temporaries}"

    def _legend(self) -> list[str]:
        problem = self.problem
        lines = []
        for r in self.runs:
            inside = " ".join(
                f"m{m}={'e' if m in problem.dynamic else ''}{problem.extents[m]}" for m in r.modes
            )
            kind = "summed" if r.summed else "kept"
            lines.append(f"{r.name}: {inside} in tiles of {self.blocks[r.name]}, {kind}")
        path = ", ".join(" ".join(map(str, ids)) for ids in problem.path)
        lines.append(f"path {path} in {problem.semiring}, {problem.precision}; {self.config}")
        return lines

    def _coordinates(self) -> tuple[tuple[Run, int], ...]:
        """Write which tile a program computes; return the runs of the grid, the fastest first."""
        out = len(self.problem.inputs)
        kept = [r for r in self.runs if out in r.values]
        kept.sort(key=lambda r: len(r.values) > 2)  # batch last: its tiles share nothing
        root = self.nodes[self.root]
        pair: tuple[Run, ...] = ()
        if len(root.children) == 2:
            roles = roles_of(root, self.nodes)
            if is_dot(self.problem, roles, self.blocks) and roles.rows and roles.columns:
                pair = (self._longest(roles.rows), self._longest(roles.columns))
        order = [*pair, *(r for r in kept if r not in pair and not self.at.whole(r))]
        pair = tuple(r for r in pair)
        live = [r for r in order if not self.at.whole(r) or r in pair]
        if self.config.resident:
            count = " * ".join([*(self.at.tiles(r) for r in live), str(self.config.split)])
            self.line(f"for tile in range(tl.program_id(0), {count}, tl.num_programs(0)):")
            self.depth += 1
        self.line(f"pid = {'tile' if self.config.resident else 'tl.program_id(0)'}")
        if pair:
            one, two = (self.at.tiles(r) for r in pair)
            self.line(f"t_{pair[0].name}, t_{pair[1].name} = grouped(pid % ({one} * {two}), {one}, {two}, "
                      f"{self.config.group})")  # fmt: skip
            self.line(f"pid = pid // ({one} * {two})")
        for r in live[len(pair) :]:
            count = self.at.tiles(r)
            self.line(f"t_{r.name} = pid % {count}")
            self.line(f"pid = pid // {count}")
        for r in kept:
            self._coordinate(r, f"t_{r.name}" if r in live else None)
        return tuple((r, self.blocks[r.name]) for r in live)

    def _longest(self, runs: Sequence[Run]) -> Run:
        return max(runs, key=lambda r: (self.problem.size(r.modes) // self.blocks[r.name], r.name))

    def _coordinate(self, run: Run, tile: str | None) -> None:
        """Write the coordinates x of a run's tile, and which of them exist."""
        name, block = run.name, self.blocks[run.name]
        large = self.problem.size(run.modes) >= 2**31
        tile = f"wide({tile})" if large and tile else tile
        if block == 1:
            self.line(f"x_{name} = {tile or 0}")
            return
        along = f"tl.arange(0, {block})"
        self.line(f"x_{name} = {tile} * {block} + {along}" if tile else f"x_{name} = {along}")
        if self.at.masked(run):
            self.line(f"ok_{name} = x_{name} < {self.at.extent(run)}")

    def _node(
        self, number: int, order: Sequence[str] | None = None, sides: Sequence[Sequence[str]] = ()
    ) -> Tile:
        """Write the code of a node and return its tile; `order` is the order of the axes its reader wants.

        A reader that multiplies matrices also says which axes are the `sides` of the matrix.
        """
        node = self.nodes[number]
        if not node.children:
            return load(self, number, order, sides)
        roles = roles_of(node, self.nodes)
        loops = [r for r in node.summed if not self.at.whole(r)]
        for r in node.summed:
            if r not in loops:
                self._coordinate(r, None)
        dot = len(node.children) == 2 and is_dot(self.problem, roles, self.blocks)
        roles = self._in_memory_order(node, roles) if dot else roles
        orders = self._orders(roles, dot)[: len(node.children)]
        shared = self.axes(roles.shared)
        matrices: list[tuple[tuple[str, ...], ...]] = [(), ()]
        if dot:
            matrices = [(self.axes(roles.rows), shared), (shared, self.axes(roles.columns))]
        looped = {r.name for r in loops}
        split = self.config.split > 1 and number == self.root
        assert loops or not split, f"{self.config} splits a sum without a loop"
        tiles: dict[int, Tile] = {}
        for child, wanted, pair in zip(node.children, orders, matrices, strict=False):
            if loops and not looped & self._depends(child):
                tiles[child] = self._prepared(self._node(child, wanted, pair), wanted, node, roles, dot)
        made: Tile | None = None
        if loops:
            made = self._zeros(roles, dot, node)
            total = " * ".join(self.at.tiles(r) for r in loops)
            if split:
                self.line(f"per = tl.cdiv({total}, {self.config.split})")
                self.line(f"for t in range(pid * per, tl.minimum(pid * per + per, {total})):")
                index = "t"
            else:
                index = f"i{number}"
                self.line(f"for {index} in range(0, {total}):")
            self.depth += 1
            for k, r in enumerate(reversed(loops)):
                count = self.at.tiles(r)
                last = k == len(loops) - 1
                self.line(f"t_{r.name} = {index}" if last else f"t_{r.name} = {index} % {count}")
                if not last:
                    self.line(f"{index}_{k} = {index} // {count}")
                    index = f"{index}_{k}"
            for r in loops:
                self._coordinate(r, f"t_{r.name}")
        for child, wanted, pair in zip(node.children, orders, matrices, strict=False):
            if child not in tiles:
                tiles[child] = self._prepared(self._node(child, wanted, pair), wanted, node, roles, dot)
        both = [tiles[i] for i in node.children]
        made = self._dot(both, roles, made, node) if dot else self._elementwise(both, roles, made)
        if loops:
            self.depth -= 1
        if len(made.parts) == 3:
            one, two, both_ = made.parts
            made = self.assign([f"{one} - {two}", f"{both_} - {one} - {two}"], made.axes, made.dtype)
        return self._finished(made, node, roles, dot)

    def _depends(self, number: int) -> set[str]:
        """Return the names of all runs a node's tile depends on from outside."""
        return {r.name for r in self.nodes[number].kept}

    def axes(self, runs: Sequence[Run]) -> tuple[str, ...]:
        return tuple(r.name for r in runs if self.blocks[r.name] > 1)

    def _in_memory_order(self, node: Node, roles: Roles) -> Roles:
        """Return `roles` with the run that an input has at stride 1 last among its side of a matrix."""
        units = [self.problem.inputs[i].unit if i < len(self.problem.inputs) else None for i in node.children]

        def ordered(runs: tuple[Run, ...], *wanted: int | None) -> tuple[Run, ...]:
            for unit in wanted:
                last = [r for r in runs if unit is not None and r.modes[-1] == unit]
                if last:
                    return (*(r for r in runs if r is not last[0]), last[0])
            return runs

        return replace(
            roles,
            rows=ordered(roles.rows, units[0]),
            columns=ordered(roles.columns, units[1]),
            shared=ordered(roles.shared, units[0], units[1]),
        )

    def _orders(self, roles: Roles, dot: bool) -> list[tuple[str, ...]]:
        """Return in which order of axes a node reads each of its inputs."""
        lone = self.axes(roles.lone)
        if dot:
            return [
                (*self.axes(roles.rows), *self.axes(roles.shared), *lone),
                (*self.axes(roles.shared), *self.axes(roles.columns), *lone),
            ]
        whole = (*self.axes(roles.batch), *self.axes(roles.rows), *self.axes(roles.columns))
        return [(*whole, *self.axes(roles.shared), *lone)] * 2

    def shape(self, axes: Sequence[str]) -> str:
        sizes = [str(self.blocks[a]) for a in axes]
        return f"({', '.join(sizes)}{',' * (len(sizes) == 1)})"

    def assign(self, code: Sequence[str], axes: Sequence[str], dtype: str) -> Tile:
        names = tuple(self.name() for _ in code)
        for name, text in zip(names, code, strict=True):
            self.line(f"{name} = {text}")
        return Tile(names, tuple(axes), dtype)

    def padding(self) -> str:
        """Return what stands for elements that do not exist: the zero of the semiring."""
        if self.problem.semiring not in ("max_plus", "min_plus", "log_sum_exp"):
            return "0"
        sign = "" if self.problem.semiring == "min_plus" else "-"
        if self.accumulated.startswith("float"):
            return f"{sign}float('inf')"
        bits = int(self.accumulated.lstrip("uint"))
        return str(-(2 ** (bits - 1)) if sign else 2 ** (bits - 1) - 1)

    def _prepared(self, tile: Tile, wanted: Sequence[str], node: Node, roles: Roles, dot: bool) -> Tile:
        """Write what a node does to an input before multiplying: sums over lone runs, order, shape and dtype."""
        pair = len(node.children) == 2  # a unary node sums by itself
        for a in [a for a in self.axes(roles.lone) if pair and a in tile.axes]:
            at = tile.axes.index(a)
            tile = Tile(
                tuple(self._reduced(self.cast(p, tile.dtype, self.accumulated), at) for p in tile.parts),
                tuple(b for b in tile.axes if b != a),
                self.accumulated,
            )
        order = tuple(a for a in wanted if a in tile.axes)
        parts = list(tile.parts)
        if order != tile.axes:
            axes = ", ".join(str(tile.axes.index(a)) for a in order)
            parts = [f"tl.permute({p}, ({axes}))" for p in parts]
        dtype = tile.dtype
        if dot:
            shared = {r.name for r in roles.shared}
            rows = [a for a in order if a not in shared]
            sides = [self.size(rows), self.size([a for a in order if a in shared])]
            if order and order[0] in shared:
                sides.reverse()
            if len(order) != 2 and not tile.matrix:
                parts = [f"tl.reshape({p}, ({sides[0]}, {sides[1]}))" for p in parts]
            dtype = self._dot_dtype()
        else:
            dtype = self.accumulated
        parts = [self.cast(p, tile.dtype, dtype) for p in parts]
        if tuple(parts) != tile.parts:
            return self.assign(parts, order, dtype)
        return Tile(tuple(parts), order, dtype)

    def size(self, axes: Sequence[str]) -> int:
        return span([self.by_name[a] for a in axes], self.blocks)

    def _dot_dtype(self) -> str:
        dtype = self.problem.dtype
        if dtype in ("bool", "int8"):
            return "int8"
        if is_complex(dtype):
            return self.accumulated
        return "float32" if self.interpret and dtype in ("bfloat16", "float16") else dtype

    def cast(self, code: str, dtype: str, wanted: str) -> str:
        return code if dtype == wanted else f"{code}.to(tl.{wanted})"

    def _reduced(self, code: str, axis: int) -> str:
        if self.reduce == "tl.sum":
            return f"tl.sum({code}, {axis})"
        return f"tl.reduce({code}, {axis}, {self.reduce})"

    def _sums(self, node: Node, dot: bool) -> int:
        """Return how many sums a node adds up: two for complex numbers, three where they are products by Gauss."""
        if not self.complex:
            return 1
        inputs = self.problem.inputs
        pairs = all(i >= len(inputs) or is_complex(inputs[i].dtype) for i in node.children)
        return 3 if dot and pairs and self.config.dots == 3 else 2

    def _zeros(self, roles: Roles, dot: bool, node: Node) -> Tile:
        """Write the start of a sum."""
        kept = (*self.axes(roles.batch), *self.axes(roles.rows), *self.axes(roles.columns))
        shape = self.shape(kept)
        if dot:
            shape = f"({span(roles.rows, self.blocks)}, {span(roles.columns, self.blocks)})"
        names = tuple(f"sum{self.temporaries}_{k}" for k in range(self._sums(node, dot)))
        self.temporaries += 1
        for name in names:
            start = f"tl.full({shape}, {self.padding()}, tl.{self.accumulated})"
            self.line(f"{name} = {start}")
        return Tile(names, kept, self.accumulated)

    def _dot(self, both: Sequence[Tile], roles: Roles, total: Tile | None, node: Node) -> Tile:
        """Write the product of two tiles as matrices, added to `total`."""
        kept = (*self.axes(roles.rows), *self.axes(roles.columns))
        left, right = both
        word = ""
        if left.dtype == "float32" and not self.interpret:
            word = f', input_precision="{_PRECISION[self.problem.precision]}"'
        if self.interpret:
            word = ', input_precision="ieee"'
        word += f", out_dtype=tl.{self.accumulated}"
        if total is None:
            total = self._zeros(roles, True, node)
        rounded = left.dtype == "float32" and self.problem.precision == "fast" and not self.interpret
        products = self._products(left, right)
        if len(total.parts) == 3:
            (x0, x1), (y0, y1) = left.parts, right.parts
            products = [[(x0, y0)], [(x1, y1)], [(f"{x0} + {x1}", f"{y0} + {y1}")]]
        for k, factors in enumerate(products):
            for x, y in factors:
                if rounded:
                    x, y = f"rounded({x})", f"rounded({y})"
                self.line(f"{total.parts[k]} = tl.dot({x}, {y}, {total.parts[k]}{word})")
        return Tile(total.parts, kept, self.accumulated)

    def _products(self, left: Tile, right: Tile) -> list[list[tuple[str, str]]]:
        """Return the products that the real part, and the imaginary part if there is one, are sums of."""
        if not self.complex:
            return [[(left.parts[0], right.parts[0])]]
        x, y = left.parts, right.parts
        real = [(x[0], y[0])]
        imaginary = []
        if len(x) == 2 and len(y) == 2:
            real.append((f"-{x[1]}", y[1]))
        if len(y) == 2:
            imaginary.append((x[0], y[1]))
        if len(x) == 2:
            imaginary.append((x[1], y[0]))
        return [real, imaginary]

    def _elementwise(self, both: Sequence[Tile], roles: Roles, total: Tile | None) -> Tile:
        """Write the product of two tiles element by element, reduced and added to `total`; or one tile, reduced."""
        summed = self.axes(roles.shared)
        if len(both) == 1:
            space = both[0].axes
            summed = self.axes(roles.lone)
            codes = list(both[0].parts)
            codes += ["0.0"] * (self.complex and len(codes) == 1)
            if len(codes) == 2 and codes[1] == "0.0":
                codes[1] = f"{codes[0]} * 0"
        else:
            whole = (*self.axes(roles.batch), *self.axes(roles.rows), *self.axes(roles.columns), *summed)
            present = {a for t in both for a in t.axes}
            space = tuple(a for a in whole if a in present)
            spread = [self._spread(t, space) for t in both]
            codes = []
            for terms in self._products(*spread):
                text = ""
                for k, (x, y) in enumerate(terms):
                    text += f" {self.multiply} ".join([f"{' + ' * (k > 0)}{x}", y])
                codes.append(text or "0.0")
            if len(codes) == 2 and codes[1] == "0.0":
                codes[1] = f"({codes[0]}) * 0"
        if summed:
            products = self.assign(codes, space, self.accumulated)
            codes = list(products.parts)
            left = list(space)
            for a in reversed([a for a in space if a in summed]):
                codes = [self._reduced(c, left.index(a)) for c in codes]
                left.remove(a)
            space = tuple(left)
        if total is None:
            return self.assign(codes, space, self.accumulated)
        for name, code in zip(total.parts, codes, strict=True):
            self.line(f"{name} = {self.add.format(name, code)}")
        return total

    def _spread(self, tile: Tile, space: Sequence[str]) -> Tile:
        """Return `tile`, whose axes are in the order of `space`, with an axis for each of `space`."""
        if tile.axes == tuple(space) or not tile.axes:
            return tile
        index = ", ".join(":" if a in tile.axes else "None" for a in space)
        return Tile(tuple(f"{p}[{index}]" for p in tile.parts), tuple(space), tile.dtype)

    def _finished(self, made: Tile, node: Node, roles: Roles, dot: bool) -> Tile:
        """Write what follows the sum: one axis a run, zeros where an intermediate does not exist."""
        axes = made.axes
        if dot and len(axes) != 2:
            made = self.assign(
                [f"tl.reshape({p}, {self.shape(axes)})" for p in made.parts], axes, self.accumulated
            )
        if node.number == self.root:
            return made
        bound = [a for a in axes if self.by_name[a].summed and self.at.masked(self.by_name[a])]
        if bound:
            masks = []
            for a in bound:
                index = ", ".join(":" if b == a else "None" for b in axes)
                masks.append(f"ok_{a}[{index}]" if len(axes) > 1 else f"ok_{a}")
            mask = " & ".join(masks)
            made = self.assign(
                [f"tl.where({mask}, {p}, {self.padding()})" for p in made.parts], axes, self.accumulated
            )
        if self.problem.dtype == "bool":
            made = self.assign([f"({p} != 0).to(tl.int32)" for p in made.parts], axes, "int32")
        return made

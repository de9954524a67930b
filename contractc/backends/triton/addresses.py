"""Address functions: the offset of a tile in each value, from the coordinate of each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from contractc.backends.triton.problem import Problem, Run


def letter(at: int, count: int) -> str:
    """Return the name of value `at` of a kernel with `count` inputs: a, b, c, ..., out."""
    return "out" if at == count else "abcdefghijklmn"[at] if count <= 14 else f"a{at}"


class Addresses:
    """The address functions of a kernel, written as they are asked for."""

    def __init__(self, problem: Problem, runs: Sequence[Run], blocks: Mapping[str, int]) -> None:
        self.problem, self.runs, self.blocks = problem, runs, blocks
        self.functions: list[str] = []
        self.written: dict[tuple[int, str], str] = {}

    def run_time_strides(self) -> list[tuple[str, int, int]]:
        """Return (parameter, value, mode) for each stride that the kernel is told at run time."""
        count = len(self.problem.inputs)
        return [
            (f"s{letter(at, count)}{m}", at, m)
            for at, v in enumerate(self.problem.values)
            for m, s in zip(v.modes, v.strides, strict=True)
            if s is None
        ]

    def _extent(self, mode: int) -> str:
        return f"e{mode}" if mode in self.problem.dynamic else str(self.problem.extents[mode])

    def is_dynamic(self, run: Run) -> bool:
        """Return whether the extent of `run` is known at run time only."""
        return bool(set(run.modes) & set(self.problem.dynamic))

    def extent(self, run: Run) -> str:
        """Return the number of positions of `run` as code."""
        fixed, names = 1, []
        for m in run.modes:
            if m in self.problem.dynamic:
                names.append(f"e{m}")
            else:
                fixed *= self.problem.extents[m]
        text = " * ".join([*names, *([str(fixed)] if fixed != 1 or not names else [])])
        return f"({text})" if " " in text else text

    def whole(self, run: Run) -> bool:
        """Return whether one tile covers `run`."""
        return not self.is_dynamic(run) and self.blocks[run.name] >= self.problem.size(run.modes)

    def masked(self, run: Run) -> bool:
        """Return whether a tile can reach beyond the end of `run`."""
        block = self.blocks[run.name]
        return block > 1 and (self.is_dynamic(run) or self.problem.size(run.modes) % block != 0)

    def tiles(self, run: Run) -> str:
        """Return the number of tiles of `run` as code."""
        block = self.blocks[run.name]
        if self.is_dynamic(run):
            return self.extent(run) if block == 1 else f"tl.cdiv({self.extent(run)}, {block})"
        return str(-(-self.problem.size(run.modes) // block))

    def call(self, at: int, run: Run, x: str) -> str:
        """Return the offset in value `at` for the coordinates `x` of `run`, as code."""
        key = (at, run.name)
        if key not in self.written:
            self.written[key] = self._write(at, run)
        given = [f"e{m}" for m in run.modes[1:] if m in self.problem.dynamic]
        count = len(self.problem.inputs)
        given += [f"s{letter(at, count)}{m}" for m in run.modes if self.problem.values[at].stride(m) is None]
        return f"{self.written[key]}({', '.join([x, *given])})"

    def _write(self, at: int, run: Run) -> str:
        problem, count = self.problem, len(self.problem.inputs)
        access = problem.values[at]
        name = f"{letter(at, count)}_{run.name}"
        terms: list[str] = []
        given: list[str] = []
        inner = 1
        for m in reversed(run.modes):
            stride = access.stride(m)
            code = "x" if inner == 1 else f"x // {inner}"
            if m != run.modes[0]:
                code = f"{code} % {problem.extents[m]}"
            factor = str(stride)
            if stride is None:
                factor = f"s{letter(at, count)}{m}"
                given.append(factor)
            if stride != 0:
                terms.append(
                    code if factor == "1" else f"({code}) * {factor}" if " " in code else f"{code} * {factor}"
                )
            inner *= problem.extents[m]
        given.reverse()
        self.functions += ["@triton.jit", f"def {name}({', '.join(['x', *given])}):"]
        if problem.wide_offsets(at):
            self.functions.append("    x = wide(x)")
        self.functions += [f"    return {' + '.join(reversed(terms)) or 'x * 0'}", "", ""]
        return name

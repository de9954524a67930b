"""LLVM text of one function: numbers that fold, loops, scalars and vectors of lanes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

from contractc.dtypes import is_complex, is_floating

Index = int | str
"""A number known while the text is written, or the name of an i64."""

Parts = tuple[str, ...]
"""The names that hold one value: one, or for a complex number the real and the imaginary part."""

_TYPES = {"float16": "half", "bfloat16": "bfloat", "float32": "float", "float64": "double", "bool": "i8"}
_TYPES |= {"complex64": "float", "complex128": "double"}
_TYPES |= {f"{sign}int{bits}": f"i{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}

LINE = 64
"""Bytes of a cache line."""

ATTRIBUTES = 'nounwind "prefer-vector-width"="512"'

DTYPES = tuple(_TYPES)
"""The dtypes that compiled loops read and write."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How a dtype looks in LLVM: the type of a part, and whether there are two."""

    type: str
    complex: bool
    floating: bool
    signed: bool

    @property
    def parts(self) -> int:
        """Return 2 for complex numbers, else 1."""
        return 1 + self.complex

    @property
    def bytes(self) -> int:
        """Return the bytes of one part."""
        return {"half": 2, "bfloat": 2, "float": 4, "double": 8}.get(self.type) or int(self.type[1:]) // 8


@lru_cache(maxsize=64)
def kind_of(dtype: str) -> Kind:
    """Return the `Kind` of the dtype called `dtype`; raises KeyError for one that loops do not know."""
    signed = dtype.startswith("int")
    return Kind(_TYPES[dtype], is_complex(dtype), is_floating(dtype), signed)


def vector(kind: str, lanes: int) -> str:
    """Return the type of `lanes` elements: the element's own for one."""
    return kind if lanes == 1 else f"<{lanes} x {kind}>"


class Writer:
    """The lines of a function being written, its stack slots, and the intrinsics it calls."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.slots: list[str] = []
        self.declared: dict[str, str] = {}
        self._names = 0

    def fresh(self) -> str:
        """Return a name that nothing has yet."""
        self._names += 1
        return f"%t{self._names}"

    def op(self, text: str) -> str:
        """Write an instruction and return the name of its result."""
        name = self.fresh()
        self.lines.append(f"  {name} = {text}")
        return name

    def do(self, text: str) -> None:
        """Write an instruction without a result."""
        self.lines.append(f"  {text}")

    def comment(self, text: str) -> None:
        """Write a line for the reader."""
        self.lines.append(f"  ; {text}")

    def slot(self, kind: str) -> str:
        """Return a pointer to room for `kind` on the stack, for the whole function."""
        name = self.fresh()
        self.slots.append(f"  {name} = alloca {kind}, align 64")
        return name

    def call(self, result: str, name: str, arguments: Sequence[tuple[str, str]], flags: str = "") -> str:
        """Write a call of the intrinsic `name` with (type, name) arguments; returns the name of its result."""
        types = ", ".join(t for t, _ in arguments)
        self.declared[name] = f"declare {result} @{name}({types})"
        code = f"call {flags}{result} @{name}({', '.join(f'{t} {x}' for t, x in arguments)})"
        if result == "void":
            self.do(code)
            return ""
        return self.op(code)

    def add(self, x: Index, y: Index) -> Index:
        """Return x + y."""
        if isinstance(x, int) and isinstance(y, int):
            return x + y
        if x == 0 or y == 0:
            return y if x == 0 else x
        return self.op(f"add i64 {x}, {y}")

    def multiply(self, x: Index, y: Index) -> Index:
        """Return x * y."""
        if isinstance(x, int) and isinstance(y, int):
            return x * y
        if x == 0 or y == 0:
            return 0
        if x == 1 or y == 1:
            return y if x == 1 else x
        return self.op(f"mul i64 {x}, {y}")

    def less(self, x: Index, y: Index) -> str:
        """Return the flag x < y."""
        return self.op(f"icmp slt i64 {x}, {y}")

    def smallest(self, x: Index, y: Index) -> Index:
        """Return the smaller one of two."""
        if isinstance(x, int) and isinstance(y, int):
            return min(x, y)
        return self.op(f"select i1 {self.less(x, y)}, i64 {x}, i64 {y}")

    def floor_divide(self, x: Index, by: int) -> Index:
        """Return x // by for x >= 0."""
        if isinstance(x, int):
            return x // by
        return x if by == 1 else self.op(f"udiv i64 {x}, {by}")

    @contextmanager
    def loop(self, extent: Index, start: Index = 0, step: int = 1) -> Iterator[Index]:
        """Write what is written inside for every position from `start` below `extent`."""
        if isinstance(extent, int) and isinstance(start, int) and start < extent <= start + step:
            yield start
            return
        counter = self.slot("i64")
        head, body, done = (self.fresh()[1:] for _ in range(3))
        self.do(f"store i64 {start}, ptr {counter}")
        self.do(f"br label %{head}")
        self.lines.append(f"{head}:")
        index = self.op(f"load i64, ptr {counter}")
        self.do(f"br i1 {self.less(index, extent)}, label %{body}, label %{done}")
        self.lines.append(f"{body}:")
        yield index
        self.do(f"store i64 {self.add(index, step)}, ptr {counter}")
        self.do(f"br label %{head}")
        self.lines.append(f"{done}:")

    @contextmanager
    def when(self, flag: str) -> Iterator[None]:
        """Write what is written inside so that it runs only if `flag` is true."""
        body, done = self.fresh()[1:], self.fresh()[1:]
        self.do(f"br i1 {flag}, label %{body}, label %{done}")
        self.lines.append(f"{body}:")
        yield
        self.do(f"br label %{done}")
        self.lines.append(f"{done}:")

    def at(self, base: str, kind: str, offset: Index) -> str:
        """Return the address of element `offset` from `base`."""
        return base if offset == 0 else self.op(f"getelementptr {kind}, ptr {base}, i64 {offset}")

    def splat(self, x: str, kind: str, lanes: int) -> str:
        """Return the scalar `x` in every lane."""
        if lanes == 1:
            return x
        one = self.op(f"insertelement {vector(kind, lanes)} poison, {kind} {x}, i32 0")
        return self.op(
            f"shufflevector {vector(kind, lanes)} {one}, {vector(kind, lanes)} poison, "
            f"<{lanes} x i32> zeroinitializer"
        )

    def shuffle(self, x: str, y: str, kind: str, lanes: int, places: Sequence[int]) -> str:
        """Return the lanes `places` of `x` (0 ..) and `y` (`lanes` ..)."""
        chosen = ", ".join(f"i32 {p}" for p in places)
        return self.op(
            f"shufflevector {vector(kind, lanes)} {x}, {vector(kind, lanes)} {y}, <{len(places)} x i32> <{chosen}>"
        )

    def ramp_below(self, bound: Index, first: int, lanes: int, repeat: int = 1) -> str:
        """Return the mask of the lanes whose number, from `first` and each `repeat` times, is below `bound`."""
        numbers = [first + k // repeat for k in range(lanes)]
        if isinstance(bound, int):
            return "<" + ", ".join(f"i1 {'true' if n < bound else 'false'}" for n in numbers) + ">"
        every = self.splat(str(bound), "i64", lanes)
        ramp = "<" + ", ".join(f"i64 {n}" for n in numbers) + ">"
        if lanes == 1:
            return self.op(f"icmp slt i64 {numbers[0]}, {bound}")
        return self.op(f"icmp slt <{lanes} x i64> {ramp}, {every}")

    def load(self, kind: str, lanes: int, address: str, mask: str = "") -> str:
        """Return `lanes` elements in a row; those the mask leaves out are zero and not touched."""
        v = vector(kind, lanes)
        if not mask:
            return self.op(f"load {v}, ptr {address}, align 1")
        name = f"llvm.masked.load.v{lanes}{_suffix(kind)}.p0"
        self.declared[name] = f"declare {v} @{name}(ptr, i32 immarg, <{lanes} x i1>, {v})"
        return self.op(f"call {v} @{name}(ptr {address}, i32 1, <{lanes} x i1> {mask}, {v} zeroinitializer)")

    def store(
        self, x: str, kind: str, lanes: int, address: str, mask: str = "", streamed: bool = False
    ) -> None:
        """Write `lanes` elements in a row, but those the mask leaves out; past the caches if `streamed`: lines."""
        v = vector(kind, lanes)
        if not mask and streamed:
            self.do(f"store {v} {x}, ptr {address}, align {LINE}, !nontemporal !0")
            return
        if not mask:
            self.do(f"store {v} {x}, ptr {address}, align 1")
            return
        name = f"llvm.masked.store.v{lanes}{_suffix(kind)}.p0"
        self.declared[name] = f"declare void @{name}({v}, ptr, i32 immarg, <{lanes} x i1>)"
        self.do(f"call void @{name}({v} {x}, ptr {address}, i32 1, <{lanes} x i1> {mask})")

    def function(self, name: str, parameters: str, heading: Sequence[str], result: str = "void") -> Function:
        """Return the function written so far."""
        return Function(
            name, parameters, tuple(heading), dict(self.declared), (*self.slots, *self.lines), result
        )


@dataclass(frozen=True, slots=True)
class Function:
    """A whole function: its lines, and the declarations of what it calls."""

    name: str
    parameters: str
    heading: tuple[str, ...]
    declared: Mapping[str, str]
    lines: tuple[str, ...]
    result: str

    def text(self, linkage: str = "", number: int = 0) -> str:
        """Return its definition; `linkage` stands before the type of the result, `number` is that of its attributes."""
        done = "  ret void" if self.result == "void" else f"  ret {self.result} 0"
        return "\n".join(
            [
                f"define {linkage}{self.result} @{self.name}({self.parameters}) #{number} {{",
                "entry:",
                *self.lines,
                done,
                "}",
            ]
        )


def module(function: Function, inner: Sequence[Function] = ()) -> str:
    """Return the module of `function` and those that it calls, which nobody else sees."""
    declared = {name: line for f in (function, *inner) for name, line in f.declared.items()}
    streamed = any("!nontemporal" in line for f in (function, *inner) for line in f.lines)
    return "\n".join(
        [
            *(f"; {line}" for line in function.heading),
            *declared.values(),
            function.text(),
            *(f"; {f.name}: {line}" for f in inner for line in f.heading),
            *(f.text("internal ", 1) for f in inner),
            f"attributes #0 = {{ {ATTRIBUTES} }}",
            f"attributes #1 = {{ noinline {ATTRIBUTES} }}",  # compiled one by one, which takes far less time
            *(["!0 = !{i32 1}"] if streamed else []),
            "",
        ]
    )


def _suffix(kind: str) -> str:
    return {"float": "f32", "double": "f64", "half": "f16", "bfloat": "bf16"}.get(kind, kind)


class Arithmetic:
    """How numbers of one dtype are multiplied and added in one semiring, in vectors or alone."""

    def __init__(self, writer: Writer, kind: Kind, semiring: str, boolean: bool) -> None:
        self.w, self.kind, self.semiring, self.boolean = writer, kind, semiring, boolean

    def zero(self, lanes: int) -> Parts:
        """Return what changes nothing when it is added."""
        if self.semiring in ("max_plus", "min_plus"):
            infinity = "0xFFF0000000000000" if self.semiring == "max_plus" else "0x7FF0000000000000"
            if lanes == 1:
                return (infinity,)
            return ("<" + ", ".join([f"{self.kind.type} {infinity}"] * lanes) + ">",)
        plain = "0.0" if self.kind.floating else "0"
        return (plain if lanes == 1 else "zeroinitializer",) * self.kind.parts

    def conj(self, x: Parts, lanes: int) -> Parts:
        """Return the complex conjugate."""
        if not self.kind.complex:
            return x
        return x[0], self.w.op(f"fneg {vector(self.kind.type, lanes)} {x[1]}")

    def multiply(self, x: Parts, y: Parts, lanes: int) -> Parts:
        """Return the semiring's product."""
        if self.kind.complex:
            real = self._minus(self._times(x[0], y[0], lanes), self._times(x[1], y[1], lanes), lanes)
            imag = self._plus(self._times(x[0], y[1], lanes), self._times(x[1], y[0], lanes), lanes)
            return real, imag
        if self.semiring in ("max_plus", "min_plus"):
            return (self._plus(x[0], y[0], lanes),)
        return (self._times(x[0], y[0], lanes),)

    def add(self, x: Parts, y: Parts, lanes: int) -> Parts:
        """Return the semiring's sum."""
        if self.semiring in ("max_plus", "min_plus"):
            name = f"llvm.{'maximum' if self.semiring == 'max_plus' else 'minimum'}"
            v = vector(self.kind.type, lanes)
            full = f"{name}.{'' if lanes == 1 else f'v{lanes}'}{_suffix(self.kind.type)}"
            return (self.w.call(v, full, [(v, x[0]), (v, y[0])]),)
        return tuple(self._plus(a, b, lanes) for a, b in zip(x, y, strict=True))

    def add_product(self, total: Parts, x: Parts, y: Parts, lanes: int) -> Parts:
        """Return total + x * y, one rounding where the machine can."""
        if not self.kind.complex:
            return self.add(total, self.multiply(x, y, lanes), lanes)
        real = self._plus(total[0], self._times(x[0], y[0], lanes), lanes)
        real = self._minus(real, self._times(x[1], y[1], lanes), lanes)
        imag = self._plus(total[1], self._times(x[0], y[1], lanes), lanes)
        return real, self._plus(imag, self._times(x[1], y[0], lanes), lanes)

    def chosen(self, mask: str, x: Parts, y: Parts, lanes: int) -> Parts:
        """Return `x` in the lanes of the mask and `y` in the others."""
        v, m = vector(self.kind.type, lanes), vector("i1", lanes)
        return tuple(self.w.op(f"select {m} {mask}, {v} {a}, {v} {b}") for a, b in zip(x, y, strict=True))

    def reduced(self, x: Parts, lanes: int) -> Parts:
        """Return the sum over the lanes: pairs first, so that the order is the same on every machine."""
        while lanes > 1:
            half = lanes // 2
            low, high = range(half), range(half, 2 * half)
            parts = [
                tuple(self.w.shuffle(p, "poison", self.kind.type, lanes, side) for p in x)
                if half > 1
                else tuple(
                    self.w.op(f"extractelement {vector(self.kind.type, lanes)} {p}, i32 {side[0]}") for p in x
                )
                for side in (low, high)
            ]
            x, lanes = self.add(parts[0], parts[1], half), half
        return x

    def _times(self, x: str, y: str, lanes: int) -> str:
        v = vector(self.kind.type, lanes)
        if self.boolean:
            return self.w.op(f"and {v} {x}, {y}")
        return self.w.op(f"{'fmul contract' if self.kind.floating else 'mul'} {v} {x}, {y}")

    def _plus(self, x: str, y: str, lanes: int) -> str:
        v = vector(self.kind.type, lanes)
        if self.boolean:
            return self.w.op(f"or {v} {x}, {y}")
        return self.w.op(f"{'fadd contract' if self.kind.floating else 'add'} {v} {x}, {y}")

    def _minus(self, x: str, y: str, lanes: int) -> str:
        v = vector(self.kind.type, lanes)
        return self.w.op(f"{'fsub contract' if self.kind.floating else 'sub'} {v} {x}, {y}")


def converted(writer: Writer, x: Parts, source: Kind, target: Kind, lanes: int) -> Parts:
    """Return `x` of kind `source` as `target`, which holds all its values or is the narrow form of `source`."""
    if source.type != target.type:
        a, b = vector(source.type, lanes), vector(target.type, lanes)
        if source.floating and target.floating:
            word = "fpext" if source.bytes < target.bytes else "fptrunc"
        elif target.floating:
            word = "sitofp" if source.signed else "uitofp"
        elif source.bytes < target.bytes:
            word = "sext" if source.signed else "zext"
        else:
            word = "trunc"
        x = tuple(writer.op(f"{word} {a} {p} to {b}") for p in x)
    if target.complex and not source.complex:
        x = (*x, "zeroinitializer" if lanes > 1 else "0.0")
    return x

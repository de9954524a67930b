"""Cases: einsum texts with shapes and a dtype, a group, and where they come from."""

from __future__ import annotations

import json
import random
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from math import prod
from pathlib import Path
from string import ascii_letters
from typing import Any

import numpy as np

from contractc.dtypes import to_numpy

Array = np.ndarray[Any, Any]

SMALL = 8
"""Extents below this say what kind of case it is (a spin, a gate, a window), so variants keep them."""

BAR = 0.95
"""A case whose group says nothing else is lost below this ratio."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured: an einsum text, the shape of each operand, one dtype; `why` it is of interest, its `origin`.

    A case is lost when the upper 95 % bound of a ratio is below `bar`; `aims` are the geometric means its group is
    to reach, by column. `seed` draws the values, and in a variant the extents.
    """

    name: str
    text: str
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    group: str = "user"
    why: str = ""
    origin: str = ""
    bar: float = BAR
    aims: dict[str, float] = field(default_factory=dict)
    seed: int = 0

    def __str__(self) -> str:
        variant = f" #{self.seed}" if self.seed else ""
        return f"{self.name} {self.dtype}{variant}"


def read_cases(path: Path) -> list[Case]:
    """Return the cases of a JSON file: of a group (`cases`), or a single network (`inputs`, `output`, `sizes`).

    Raises:
        ValueError: the file is neither.
    """
    data = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(data, dict) and "cases" in data:
        return list(_of_group(data))
    if isinstance(data, dict) and {"inputs", "output", "sizes"} <= set(data):
        return [_of_network(data)]
    raise ValueError(f"{path} has neither 'cases' nor a network's 'inputs', 'output' and 'sizes'")


def _of_group(data: dict[str, Any]) -> Iterator[Case]:
    bars = data.get("bars", {})
    for row in data["cases"]:
        for dtype in row["dtypes"]:
            yield Case(
                row["name"],
                row["text"],
                tuple(tuple(shape) for shape in row["shapes"]),
                dtype,
                data["group"],
                row.get("why", data["why"]),
                row.get("origin", data["origin"]),
                bars.get("lost", BAR),
                bars.get(dtype, {}),
            )


def _of_network(data: dict[str, Any]) -> Case:
    """Return a network whose modes are numbers as a case in float64."""
    terms = ["".join(map(letter, term)) for term in (*data["inputs"], data["output"])]
    return Case(
        data["name"],
        f"{','.join(terms[:-1])}->{terms[-1]}",
        tuple(tuple(data["sizes"][m] for m in term) for term in data["inputs"]),
        "float64",
        "networks",
        "networks from elsewhere, with their own order of modes",
        data["origin"],
    )


def letter(mode: int) -> str:
    """Return the letter of a mode's number: a to z, A to Z, then all others that are written from left to right."""
    if mode < len(ascii_letters):
        return ascii_letters[mode]
    return _other_letters()[mode - len(ascii_letters)]


@cache
def _other_letters() -> str:
    """Return what opt_einsum takes from U+00C0 on, without the code points that are no letters."""
    found = map(chr, range(0xC0, 0x20000))
    return "".join(c for c in found if c.isalpha() and unicodedata.bidirectional(c) == "L")


def extents(case: Case) -> dict[str, int]:
    """Return the extent of each letter; those that ellipses cover have none."""
    terms = case.text.replace(" ", "").partition("->")[0].split(",")
    found: dict[str, int] = {}
    for term, shape in zip(terms, case.shapes, strict=True):
        if "." not in term:
            for label, extent in zip(term, shape, strict=True):
                found[label] = max(extent, found.get(label, 1))
    return found


def varied(case: Case, seed: int) -> Case:
    """Return `case` with other numbers, and with every extent that is not small drawn anew, 0.8 to 1.25 times as large.

    A strategy that wins on the listed extents only does not win on these. Seed 0 is the case itself; extents stay
    where axes broadcast or an ellipsis covers them.
    """
    terms = case.text.replace(" ", "").partition("->")[0].split(",")
    broadcast = any(1 in shape for shape in case.shapes)
    if seed == 0 or broadcast or "." in case.text:
        return replace(case, seed=seed)
    draw = random.Random(f"{seed} {case.name}").uniform
    new = {m: n if n < SMALL else round(n * draw(0.8, 1.25)) for m, n in extents(case).items()}
    return replace(case, seed=seed, shapes=tuple(tuple(new[m] for m in term) for term in terms))


def operands(case: Case) -> list[Array]:
    """Return operands with random values, scaled so that a result is about 1 in size.

    Every summed mode multiplies the variance of the result by its extent, which the operands that have it share
    out among themselves. Integers are -3 to 3; bools are true so rarely that about half of a matrix product is.
    """
    rng = np.random.default_rng([case.seed, zlib.crc32(case.name.encode())])
    inputs, _, output = case.text.replace(" ", "").partition("->")
    terms, sizes = inputs.split(","), extents(case)
    share = {m: n ** (-0.5 / sum(m in t for t in terms)) for m, n in sizes.items() if m not in output}
    found = []
    for term, shape in zip(terms, case.shapes, strict=True):
        dtype = to_numpy(case.dtype)
        if dtype.kind == "b":
            found.append(rng.random(shape) < 0.05)
        elif dtype.kind in "iu":
            found.append(rng.integers(0 if dtype.kind == "u" else -3, 4, shape).astype(dtype))
        else:
            values = rng.standard_normal(shape)
            if dtype.kind == "c":
                values = (values + 1j * rng.standard_normal(shape)) * 0.5**0.5
            found.append(np.asarray(values * prod(share.get(m, 1.0) for m in set(term)), dtype))
    return found


def selected(
    cases: Sequence[Case], groups: Sequence[str], names: Sequence[str], dtypes: Sequence[str]
) -> list[Case]:
    """Return the cases of these groups, names and dtypes; an empty list lets all pass, a name may be a beginning."""
    return [
        c
        for c in cases
        if (not groups or c.group in groups)
        and (not names or any(c.name.startswith(n) for n in names))
        and (not dtypes or c.dtype in dtypes)
    ]

"""Kernels compiled for one architecture: from the store if this Triton compiled them before, else compiled and kept."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from contractc.backends.triton import toolchain
from contractc.backends.triton.emit import GENERATOR, Source
from contractc.serial import digest
from contractc.store import open_store

KIND = "cubin"
"""What kernels are called in the store."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A compiled kernel as the store has it: what its launch and the choice of its tiles have to know, and its code.

    `metadata` is Triton's own description, as JSON.
    """

    name: str
    warps: int
    shared: int
    registers: int
    spills: int
    parameters: int
    metadata: str
    cubin: bytes

    def to_bytes(self) -> bytes:
        """Return this as the store keeps it: a line of JSON, then the code."""
        head = [getattr(self, f.name) for f in fields(self)[:-1]]
        return json.dumps(head).encode() + b"\n" + self.cubin

    @classmethod
    def from_bytes(cls, data: bytes) -> Kept | None:
        """Return what `to_bytes` wrote, None for a kernel that does not compile; raises ValueError if it is neither."""
        line, _, cubin = data.partition(b"\n")
        head: Any = json.loads(line)
        if head is None:
            return None
        kinds = [str, int, int, int, int, int, str]
        if not isinstance(head, list) or [type(x) for x in head] != kinds or not cubin.startswith(b"\x7fELF"):
            raise ValueError(f"{line!r:.60} describes no kernel")
        names = (f.name for f in fields(cls))
        return cls(**dict(zip(names, [*head, cubin], strict=True)))


@lru_cache(maxsize=1024)
def kept(
    source: Source,
    warps: int,
    stages: int,
    arch: int,
    *,
    divisible: bool = True,
    numbers: tuple[bool, ...] | None = None,
) -> Kept | None:
    """Return `source` compiled for a CUDA architecture, or None if it does not compile; see `toolchain.signature_of`.

    It is looked up in the store by the digest of its source, the architecture and the versions of generator and
    Triton: compiling takes half a second.
    """
    store = open_store()
    how = [warps, stages, divisible, None if numbers is None else list(numbers)]
    key = digest([GENERATOR, toolchain.VERSION, arch, how, list(source.types), source.text])
    found = None if store is None else store.read(KIND, key)
    if found is not None:
        with suppress(ValueError):
            return Kept.from_bytes(found)
    made = None
    with suppress(*toolchain.FAILURES):
        b = toolchain.compiled(source, warps, stages, arch, divisible=divisible, numbers=numbers)
        made = Kept(b.name, b.warps, b.shared, b.registers, b.spills, b.parameters, b.metadata, b.cubin)
    if store is not None:
        store.write(KIND, key, b"null\n" if made is None else made.to_bytes())
    return made

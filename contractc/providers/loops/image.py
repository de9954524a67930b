"""Machine code placed in memory from an object file, without a linker: of functions that call nothing.

A bundle carries compiled loops to machines that have NumPy only. They are ELF objects for 64-bit x86 with one function
and its numbers, so that all a linker would do is write a few addresses. Anything else is refused.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import sys
from functools import cache
from typing import Any, NamedTuple

from contractc.errors import UnsupportedError

__all__ = ["features", "here", "placed"]

_ELF = b"\x7fELF\x02\x01\x01"
"""An ELF file, 64 bits, little-endian, of the one version there is."""
_RELOCATABLE, _X86_64 = 1, 62
_HEADER = struct.Struct("<16s2HI3QI6H")
_SECTION = struct.Struct("<2I4Q2I2Q")
_SYMBOL = struct.Struct("<I2BH2Q")
_RELOCATION = struct.Struct("<2Qq")
_BITS, _SYMBOLS, _ADDENDS, _ZEROS = 1, 2, 4, 8
"""The kinds of sections that are looked at."""
_IN_MEMORY = 2
"""The flag of sections that are there when the code runs."""
_ADDRESS, _DISTANCE, _DISTANCE_OF_CALL = 1, 2, 4
"""R_X86_64_64, PC32 and PLT32 of the System V ABI, AMD64 supplement, 4.4.1: S + A and S + A - P."""

_INSTRUCTIONS = ("sse", "pni", "ssse", "avx", "fma", "f16c", "bmi", "abm", "movbe", "popcnt", "gfni")
"""How the names of those features start that a compiler may use for loops over numbers."""


class Placed(NamedTuple):
    """Where a function is, and the memory that has to stay for it."""

    address: int
    memory: Any


@cache
def here() -> str | None:
    """Return why no machine code can be placed in this process, or None where it can."""
    if sys.platform != "linux" or os.uname().machine != "x86_64" or sys.maxsize < 2**32:
        return "machine code is for 64-bit x86 under Linux"
    return None


@cache
def features() -> frozenset[str]:
    """Return the instruction sets of this processor, as Linux names them."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("flags"):
                    return frozenset(w for w in line.split() if w.startswith(_INSTRUCTIONS))
    except OSError:
        pass
    return frozenset()


def placed(code: bytes, function: str) -> Placed:
    """Return the function of an object file, ready to be called.

    Raises:
        UnsupportedError: it is no object file of the kind above, or this system lets no code be placed.
    """
    reason = here()
    if reason is not None:
        raise UnsupportedError(reason)
    try:
        return _placed(code, function)
    except (struct.error, IndexError, ValueError, OverflowError) as error:
        raise UnsupportedError(f"its machine code is not an object file as expected: {error}") from None
    except OSError as error:
        raise UnsupportedError(f"this system places no machine code: {error}") from None


def _placed(code: bytes, function: str) -> Placed:
    head = _HEADER.unpack_from(code)
    if code[: len(_ELF)] != _ELF or head[1:3] != (_RELOCATABLE, _X86_64):
        raise ValueError("another kind of file")
    start, count = head[6], head[12]
    sections = [_SECTION.unpack_from(code, start + k * _SECTION.size) for k in range(count)]
    at: dict[int, int] = {}
    size = 0
    for k, (_, kind, flags, _, _, length, _, _, alignment, _) in enumerate(sections):
        if flags & _IN_MEMORY and length and kind in (_BITS, _ZEROS):
            size = -(-size // max(1, alignment)) * max(1, alignment)
            at[k] = size
            size += length
    kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = mmap.mmap(-1, max(1, size), flags=kind, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    for k, offset in at.items():
        _, kind, _, _, begin, length, *_ = sections[k]
        if kind == _BITS:
            memory[offset : offset + length] = code[begin : begin + length]
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    symbols = next((s for s in sections if s[1] == _SYMBOLS), None)
    if symbols is None:
        raise ValueError("it names no function")
    for _, kind, _, _, begin, length, _, target, _, _ in sections:
        if kind == _ADDENDS and target in at:
            for k in range(length // _RELOCATION.size):
                where, info, addend = _RELOCATION.unpack_from(code, begin + k * _RELOCATION.size)
                value = base + addend + _symbol(code, symbols, info >> 32, at)
                _write(memory, at[target] + where, info & 0xFFFFFFFF, value, base)
    found = _named(code, symbols, sections[symbols[6]], function)
    address = base + _symbol(code, symbols, found, at)
    _protect(base, max(1, size))
    return Placed(address, memory)


def _symbol(code: bytes, symbols: tuple[Any, ...], number: int, at: dict[int, int]) -> int:
    """Return where a symbol is, from the start of the memory on."""
    if number * _SYMBOL.size >= symbols[5]:
        raise ValueError("a symbol is missing")
    _, _, _, section, value, _ = _SYMBOL.unpack_from(code, symbols[4] + number * _SYMBOL.size)
    if section not in at:
        raise ValueError("it calls another library")
    return int(at[section] + value)


def _named(code: bytes, symbols: tuple[Any, ...], strings: tuple[Any, ...], function: str) -> int:
    wanted = function.encode() + b"\0"
    for k in range(symbols[5] // _SYMBOL.size):
        name = strings[4] + _SYMBOL.unpack_from(code, symbols[4] + k * _SYMBOL.size)[0]
        if code[name : name + len(wanted)] == wanted:
            return k
    raise ValueError(f"there is no function {function!r:.40}")


def _write(memory: mmap.mmap, where: int, kind: int, value: int, base: int) -> None:
    """Write what a relocation asks for at `where`."""
    if kind == _ADDRESS:
        struct.pack_into("<Q", memory, where, value)
    elif kind in (_DISTANCE, _DISTANCE_OF_CALL):
        struct.pack_into("<i", memory, where, value - (base + where))
    else:
        raise ValueError(f"a relocation of kind {kind}")


def _protect(base: int, size: int) -> None:
    """Make the memory executable and no longer writable: it is never both."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(base), ctypes.c_size_t(size), mmap.PROT_READ | mmap.PROT_EXEC):
        raise OSError(ctypes.get_errno(), "mprotect refuses")

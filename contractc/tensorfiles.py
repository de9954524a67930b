"""Arrays by name in one file: the safetensors format, read and written with NumPy alone.

Format (https://github.com/huggingface/safetensors): 8 bytes with the length of a JSON header, the header
`{name: {"dtype", "shape", "data_offsets"}, "__metadata__": {text: text}}`, then the elements of every array in C order,
little-endian, without gaps. The format has no complex numbers: an array of them is stored as real numbers with a
last axis of 2 (real, imaginary), and its name is listed in the metadata under `COMPLEX`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from math import prod
from typing import Any

import numpy as np

from contractc.dtypes import to_numpy

Array = np.ndarray[Any, Any]

COMPLEX = "contractc.complex"
"""The metadata entry that names the arrays stored as real and imaginary parts, as a JSON list."""

DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "float16": "F16",
    "bfloat16": "BF16",
    "uint32": "U32",
    "int32": "I32",
    "float32": "F32",
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
}
"""Names of dtypes and what the format calls them; complex64 and complex128 are stored as float32 and float64."""

_PARTS = {"complex64": "float32", "complex128": "float64"}
_NAMES = {short: name for name, short in DTYPES.items()}

MOST_HEADER = 100_000_000
"""The longest header that is read, in bytes; the limit of the reference reader."""


def packed(arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return `arrays` as the bytes of a safetensors file; equal input gives equal bytes.

    Args:
        arrays: by name; real, complex, bool or integer, in any memory order.
        metadata: texts that are stored beside them.

    Raises:
        ValueError: the format has no such dtype, or a name is reserved.
    """
    notes = dict(metadata or {})
    if COMPLEX in notes or "__metadata__" in arrays:
        raise ValueError(
            f"the names {COMPLEX!r} in the metadata and '__metadata__' for an array are reserved"
        )
    split = sorted(name for name, x in arrays.items() if x.dtype.name in _PARTS)
    if split:
        notes[COMPLEX] = json.dumps(split)
    stored = {name: _real(name, x) for name, x in arrays.items()}
    # Wide elements first, so that every array is aligned in the file and can be used where it lies.
    order = sorted(stored, key=lambda name: (-stored[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(notes.items()))} if notes else {}
    end = 0
    for name in order:
        x = stored[name]
        offsets = [end, end := end + x.nbytes]
        header[name] = {"dtype": DTYPES[x.dtype.name], "shape": list(x.shape), "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *(stored[name].tobytes() for name in order)])


def unpacked(data: bytes | bytearray | memoryview) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the arrays and the metadata in the bytes of a safetensors file.

    The arrays are views of `data`, and writable if it is. Nothing in `data` is trusted.

    Raises:
        ValueError: it is not such a file, with what is wrong.
    """
    header, start = _header(memoryview(data))
    notes = header.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(v, str) for v in notes.values()):
        raise ValueError("the metadata of a safetensors file are texts by name")
    arrays, spans = {}, []
    for name, entry in header.items():
        dtype, shape, span = _entry(name, entry)
        spans.append((*span, name))
        if span[1] > len(data) - start:
            raise ValueError(f"array {name!r:.40} ends after the end of the file")
        if prod(shape) == 0:
            arrays[name] = np.empty(shape, dtype)
        else:
            arrays[name] = np.frombuffer(data, dtype, prod(shape), start + span[0]).reshape(shape)
    end = 0
    for first, last, name in sorted(spans):
        if first != end:
            raise ValueError(f"array {name!r:.40} starts at {first}, but the one before ends at {end}")
        end = last
    if end != len(data) - start:
        raise ValueError(f"the arrays end at {end}, but the file at {len(data) - start}")
    for name in _complex_names(notes.pop(COMPLEX, "[]")):
        arrays[name] = _complex(name, arrays)
    return arrays, notes


def save(
    path: str | os.PathLike[str], arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None
) -> None:
    """Write `arrays` and `metadata` to a safetensors file; what was there is replaced at once or not at all.

    Raises:
        ValueError: the format has no such dtype, or a name is reserved.
    """
    replace_file(path, packed(arrays, metadata))


def replace_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path`; what was there is replaced at once or not at all."""
    name = os.fspath(path)
    part = f"{name}.{os.getpid()}-{os.urandom(4).hex()}.part"
    try:
        with open(part, "xb") as file:
            file.write(data)
        os.replace(part, name)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(part)
        if isinstance(error, OSError):
            error.filename, error.filename2 = name, None  # the caller knows no other file
        raise


def load(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the arrays (writable, in fresh memory) and the metadata of a safetensors file.

    Raises:
        ValueError: it is not such a file, with what is wrong.
    """
    try:
        with open(path, "rb") as file:
            return unpacked(bytearray(file.read()))
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None


def _real(name: str, x: Array) -> Array:
    """Return `x` as it is stored: in C order, little-endian, complex numbers as pairs."""
    dtype = x.dtype.name
    if dtype not in DTYPES and dtype not in _PARTS:
        raise ValueError(f"array {name!r:.40} is {dtype}, which safetensors does not have")
    x = np.asarray(x, to_numpy(dtype).newbyteorder("<"), order="C")
    if dtype in _PARTS:
        x = x.reshape(*x.shape, 1).view(to_numpy(_PARTS[dtype]).newbyteorder("<"))
    return x


def _header(data: memoryview) -> tuple[dict[str, Any], int]:
    """Return the header and the offset at which the elements start."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(MOST_HEADER, len(data) - 8):
        raise ValueError("not a safetensors file: its header does not fit")
    try:
        header = json.loads(bytes(data[8 : 8 + size]), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the header of a safetensors file is JSON: {error}") from None
    if not isinstance(header, dict):
        raise ValueError("the header of a safetensors file is a JSON object")
    return header, 8 + size


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _entry(name: str, entry: Any) -> tuple[np.dtype, tuple[int, ...], tuple[int, int]]:
    """Return dtype, shape and span of one array after checking that they fit together."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"array {name!r:.40} is described by dtype, shape and data_offsets")
    short, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(short, str) or short not in _NAMES:
        raise ValueError(f"array {name!r:.40} has dtype {short!r:.20}, which is not read")
    for numbers in (shape, span):
        if not isinstance(numbers, list) or any(type(n) is not int or n < 0 for n in numbers):
            raise ValueError(f"array {name!r:.40} has a shape and offsets that are no numbers")
    dtype = to_numpy(_NAMES[short])
    if len(span) != 2 or span[1] - span[0] != prod(shape) * dtype.itemsize:
        raise ValueError(f"array {name!r:.40} of shape {tuple(shape)} does not fill its bytes {tuple(span)}")
    return dtype.newbyteorder("<"), tuple(shape), (span[0], span[1])


def _complex_names(text: str) -> list[str]:
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{COMPLEX} is a JSON list of names")
    return names


def _complex(name: str, arrays: Mapping[str, Array]) -> Array:
    """Return the array of pairs called `name` as complex numbers."""
    x = arrays.get(name)
    wide = {part: whole for whole, part in _PARTS.items()}
    if x is None or x.dtype.name not in wide or x.shape[-1:] != (2,):
        raise ValueError(f"{name!r:.40} is listed as complex, but is no array of pairs")
    return x.view(to_numpy(wide[x.dtype.name]).newbyteorder("<")).reshape(x.shape[:-1])

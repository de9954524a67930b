"""JSON of the nouns, and digests. The one serialiser: no pickle anywhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any

FORMAT = 1
"""Number of the JSON format; raised when a noun changes so that old text cannot be read as new."""

_DEPTH = 64
"""Deepest nesting that is read: a noun nests a handful of levels, so deeper text is hostile."""


def encode(noun: object) -> Any:
    """Return `noun` as JSON primitives: a dataclass is an object with its class name under `is`."""
    if is_dataclass(noun) and not isinstance(noun, type):
        body = {f.name: encode(getattr(noun, f.name)) for f in fields(noun) if f.metadata.get("stored", True)}
        return {"is": type(noun).__name__, **body}
    if isinstance(noun, tuple | list):
        return [encode(x) for x in noun]
    if noun is None or isinstance(noun, bool | int | float | str):
        return noun
    raise TypeError(f"{type(noun).__name__} has no JSON form")


def decode(data: Any, classes: Iterable[type]) -> Any:
    """Return the noun that `encode` turned into `data`; only the named `classes` may occur in it.

    Raises:
        ValueError: `data` is not such a noun: an unknown class, a missing or a surplus field.
    """
    return _decode(data, {c.__name__: c for c in classes}, 0)


def _decode(data: Any, classes: dict[str, type], depth: int) -> Any:
    if depth > _DEPTH:
        raise ValueError(f"nested more than {_DEPTH} levels deep")
    if isinstance(data, list):
        return tuple(_decode(x, classes, depth + 1) for x in data)
    if not isinstance(data, dict):
        return data
    kind = classes.get(data.get("is", ""))
    if kind is None:
        raise ValueError(f"expected one of {', '.join(classes)}, got {data.get('is')!r}")
    body = {k: _decode(v, classes, depth + 1) for k, v in data.items() if k != "is"}
    names = {f.name for f in fields(kind) if f.metadata.get("stored", True)}
    if set(body) != names:
        raise ValueError(f"{kind.__name__} with fields {sorted(body)}, expected {sorted(names)}")
    return kind(**body)


def dumps(noun: object) -> str:
    """Return the canonical JSON text of `noun`: one line, sorted keys, no blanks, format number."""
    text = {"format": FORMAT, "noun": encode(noun)}
    return json.dumps(text, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def loads(text: str, classes: Iterable[type]) -> Any:
    """Return the noun in `text`, which `dumps` wrote.

    Raises:
        ValueError: the text is not JSON, of another format number, or not one of `classes`.
    """
    try:
        data = json.loads(text)
    except RecursionError:
        raise ValueError(f"nested more than {_DEPTH} levels deep") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else None
        raise ValueError(f"format {found!r}, this contractc reads format {FORMAT}")
    return decode(data.get("noun"), classes)


def digest(noun: object) -> str:
    """Return the SHA-256 (hexadecimal) of the canonical JSON of `noun`: the only key on disk."""
    return hashlib.sha256(dumps(noun).encode()).hexdigest()

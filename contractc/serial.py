"""JSON of the nouns, and digests. The one serialiser: no pickle anywhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

FORMAT = 2
"""Number of the JSON format; raised when a noun changes so that old text cannot be read as new."""

_DEPTH = 64
"""Deepest nesting that is read: a noun nests a handful of levels, so deeper text is hostile."""


def encode(noun: object) -> Any:
    """Return `noun` as JSON primitives: a dataclass is an object with its class name under `is`."""
    if isinstance(noun, tuple | list):
        return [x if type(x) is int else encode(x) for x in noun]
    if is_dataclass(noun) and not isinstance(noun, type):
        body = {name: encode(getattr(noun, name)) for name in _stored(type(noun))}
        return {"is": type(noun).__name__, **body}
    if noun is None or isinstance(noun, bool | int | float | str):
        return noun
    raise TypeError(f"{type(noun).__name__} has no JSON form")


@cache
def _stored(kind: type) -> tuple[str, ...]:
    """Return the names of the fields of a noun that its JSON has."""
    return tuple([f.name for f in fields(kind) if f.metadata.get("stored", True)])


def decode(data: Any, classes: Sequence[type]) -> Any:
    """Return the noun that `encode` turned into `data`: one of the first of `classes`, made of the others.

    Raises:
        ValueError: `data` is not such a noun: an unknown class, a missing or a surplus field, a wrong type.
    """
    noun = _decode(data, {c.__name__: c for c in classes}, 0)
    if type(noun) is not classes[0]:
        raise ValueError(f"expected a {classes[0].__name__}, got a {type(noun).__name__}")
    return noun


def _decode(data: Any, classes: dict[str, type], depth: int) -> Any:
    if depth > _DEPTH:
        raise ValueError(f"nested more than {_DEPTH} levels deep")
    if isinstance(data, list):
        return tuple([_decode(x, classes, depth + 1) if isinstance(x, list | dict) else x for x in data])
    if not isinstance(data, dict):
        return data
    name = data.get("is")
    kind = classes.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"expected one of {', '.join(classes)}, got {name!r:.40}")
    body = {
        k: _decode(v, classes, depth + 1) if isinstance(v, list | dict) else v
        for k, v in data.items()
        if k != "is"
    }
    checks = _checks(kind)
    if body.keys() != checks.keys():
        raise ValueError(f"{kind.__name__} with fields {sorted(body)}, expected {sorted(checks)}")
    for field, value in body.items():
        if not checks[field](value):
            raise ValueError(f"{field} of {kind.__name__} is {value!r:.60}, which has the wrong type")
    return kind(**body)


@cache
def _checks(kind: type) -> dict[str, Callable[[Any], bool]]:
    """Return for each stored field of a noun a function that tells whether a value has the field's type."""
    hints = get_type_hints(kind)
    return {f.name: _check(hints[f.name]) for f in fields(kind) if f.metadata.get("stored", True)}


def _check(hint: Any) -> Callable[[Any], bool]:
    """Return whether values fit the type that a field is annotated with (of those the nouns use)."""
    if get_origin(hint) is tuple:
        item = get_args(hint)[0]
        if isinstance(item, type) and item is not float:
            only = {item}
            return lambda value: type(value) is tuple and set(map(type, value)) <= only
        fits = _check(item)
        return lambda value: type(value) is tuple and all(map(fits, value))
    if get_origin(hint) in (Union, UnionType):
        each = [_check(kind) for kind in get_args(hint)]
        return lambda value: any(fits(value) for fits in each)
    if hint is float:
        return lambda value: type(value) in (float, int)
    return lambda value: type(value) is hint


def dumps(noun: object) -> str:
    """Return the canonical JSON text of `noun`: one line, sorted keys, no blanks, format number."""
    text = {"format": FORMAT, "noun": encode(noun)}
    return json.dumps(text, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def loads(text: str, classes: Sequence[type]) -> Any:
    """Return the noun in `text`, which `dumps` wrote.

    Raises:
        ValueError: the text is not JSON, of another format number, or not of the first of `classes`.
    """
    try:
        data = json.loads(text)
    except RecursionError:
        raise ValueError(f"nested more than {_DEPTH} levels deep") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else None
        raise ValueError(f"format {found!r:.40}, this contractc reads format {FORMAT}")
    return decode(data.get("noun"), classes)


def checked(noun: Any) -> Any:
    """Return `noun` if it has no faults; raises ValueError with the first of them otherwise."""
    try:
        faults = noun.faults()
    except (TypeError, AttributeError, IndexError, KeyError) as error:
        faults = [f"a field has the wrong type ({error})"]
    if faults:
        raise ValueError(f"not a well-formed {type(noun).__name__}: " + "; ".join(faults[:5]))
    return noun


@cache
@cache
def sources_digest(*patterns: str) -> str:
    """Return a digest of the modules of this package that match `patterns`, by which others' results are forgotten."""
    from pathlib import Path  # loaded by those who ask

    here = Path(__file__).parent
    found = [path.read_bytes() for pattern in patterns for path in sorted(here.glob(pattern))]
    found = found or [str(here).encode()]  # inside of a zip archive
    return hashlib.sha256(b"".join(found)).hexdigest()


def digest(noun: object) -> str:
    """Return the SHA-256 (hexadecimal) of the canonical JSON of `noun`: the only key on disk."""
    return hashlib.sha256(dumps(noun).encode()).hexdigest()

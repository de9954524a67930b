"""JSON of the nouns: what is read back is equal, and nothing else is read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import pytest

import contractc
from contractc import serial
from contractc.network import TensorNetwork
from contractc.notation import Einsum, parse
from contractc.plans import Plan
from contractc.programs import Program
from contractc.serial import FORMAT, checked, decode, digest, dumps, encode, loads
from messages import message_of


@dataclass(frozen=True)
class Leaf:
    name: str
    sizes: tuple[int, ...] = ()
    hidden: int = field(default=0, metadata={"stored": False})


@dataclass(frozen=True)
class Tree:
    leaves: tuple[Leaf, ...]
    weight: float | None = None

    def faults(self) -> list[str]:
        return [f"leaf {k} is empty" for k, leaf in enumerate(self.leaves) if not leaf.name]


CLASSES = (Tree, Leaf)
TREE = Tree((Leaf("a", (1, 2)), Leaf("é\n")), 0.5)


def nouns() -> list[Any]:
    executable = contractc.compile("ij,jk->ik", (3, 4), (4, 5), dynamic="i")
    return [parse("ij,jk->ik"), executable.plan.network, executable.plan, executable.program]


def test_dumps_is_canonical() -> None:
    assert dumps(TREE) == (
        '{"format":2,"noun":{"is":"Tree","leaves":[{"is":"Leaf","name":"a","sizes":[1,2]},'
        '{"is":"Leaf","name":"\\u00e9\\n","sizes":[]}],"weight":0.5}}'
    )


def test_loads_returns_what_dumps_wrote() -> None:
    assert loads(dumps(TREE), CLASSES) == TREE
    assert dumps(loads(dumps(TREE), CLASSES)) == dumps(TREE)


def test_fields_that_are_not_stored_get_their_default() -> None:
    assert loads(dumps(Tree((Leaf("a", (), 7),))), CLASSES) == Tree((Leaf("a"),))


@pytest.mark.parametrize("thing", [{1}, 1j, b"x", object(), {"a": 1}])
def test_encode_refuses_what_has_no_json_form(thing: Any) -> None:
    with pytest.raises(TypeError) as caught:
        encode(Tree((), thing))
    assert str(caught.value) == f"{type(thing).__name__} has no JSON form"


def test_dumps_refuses_infinity() -> None:
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        dumps(Tree((), float("inf")))


def test_digest_is_the_sha256_of_the_canonical_text() -> None:
    text = '{"format":2,"noun":{"is":"Tree","leaves":[],"weight":null}}'
    assert digest(Tree(())) == hashlib.sha256(text.encode()).hexdigest()
    assert digest(Tree(())) != digest(Tree((), 0.0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"format":1,"noun":{"is":"Tree","leaves":[],"weight":null}}',
            "format 1, this contractc reads format 2",
        ),
        ('{"format":"1","noun":{}}', "format '1', this contractc reads format 2"),
        ('{"noun":{"is":"Tree","leaves":[],"weight":null}}', "format None, this contractc reads format 2"),
        ("[]", "format None, this contractc reads format 2"),
        ("null", "format None, this contractc reads format 2"),
        ('{"format":2}', "expected a Tree, got a NoneType"),
        ('{"format":2,"noun":[]}', "expected a Tree, got a tuple"),
        ('{"format":2,"noun":{"is":"Leaf","name":"a","sizes":[]}}', "expected a Tree, got a Leaf"),
        ('{"format":2,"noun":{}}', "expected one of Tree, Leaf, got None"),
        ('{"format":2,"noun":{"is":"Popen"}}', "expected one of Tree, Leaf, got 'Popen'"),
        ('{"format":2,"noun":{"is":["Tree"]}}', "expected one of Tree, Leaf, got ['Tree']"),
        ('{"format":2,"noun":{"is":{"is":"Tree"}}}', "expected one of Tree, Leaf, got {'is': 'Tree'}"),
        (
            '{"format":2,"noun":{"is":"Tree","leaves":[],"weight":null,"more":1}}',
            "Tree with fields ['leaves', 'more', 'weight'], expected ['leaves', 'weight']",
        ),
        (
            '{"format":2,"noun":{"is":"Tree","leaves":[1],"weight":null}}',
            "leaves of Tree is (1,), which has the wrong type",
        ),
        (
            '{"format":2,"noun":{"is":"Tree","leaves":[],"weight":true}}',
            "weight of Tree is True, which has the wrong type",
        ),
        (
            '{"format":2,"noun":{"is":"Leaf","name":1,"sizes":[]}}',
            "name of Leaf is 1, which has the wrong type",
        ),
        (
            '{"format":2,"noun":{"is":"Leaf","name":"a","sizes":[1.0]}}',
            "sizes of Leaf is (1.0,), which has the wrong type",
        ),
        (
            '{"format":2,"noun":{"is":"Tree","leaves":[]}}',
            "Tree with fields ['leaves'], expected ['leaves', 'weight']",
        ),
        (
            '{"format":2,"noun":{"is":"Tree","leaves":[{"is":"Leaf","name":"a","sizes":[],"hidden":1}],"weight":0}}',
            "Leaf with fields ['hidden', 'name', 'sizes'], expected ['name', 'sizes']",
        ),
    ],
)
def test_loads_refuses_what_dumps_did_not_write(text: str, message: str) -> None:
    assert message_of(ValueError, loads, text, CLASSES) == message


@pytest.mark.parametrize("text", ["", "{", "ij,jk->ik", '{"format":2,"noun":1e}', '{"format":2}x'])
def test_loads_refuses_what_is_no_json(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        loads(text, CLASSES)


@pytest.mark.parametrize("depth", [66, 1_000, 200_000])
def test_loads_refuses_deep_nesting(depth: int) -> None:
    text = '{"format":2,"noun":' + "[" * depth + "]" * depth + "}"
    with pytest.raises(ValueError, match=r"^nested more than 64 levels deep$"):
        loads(text, CLASSES)


def test_decode_refuses_deep_nesting_of_nouns() -> None:
    data: Any = None
    for _ in range(70):
        data = {"is": "Tree", "leaves": [data], "weight": None}
    with pytest.raises(ValueError, match=r"^nested more than 64 levels deep$"):
        decode(data, CLASSES)


def test_loads_refuses_a_number_of_ten_thousand_digits() -> None:
    with pytest.raises(ValueError, match="integer string conversion"):
        loads('{"format":2,"noun":' + "9" * 10_000 + "}", CLASSES)


def test_checked_returns_a_noun_without_faults() -> None:
    assert checked(TREE) is TREE


def test_checked_names_the_first_faults() -> None:
    assert message_of(ValueError, checked, Tree((Leaf(""),) * 7)) == (
        "not a well-formed Tree: leaf 0 is empty; leaf 1 is empty; leaf 2 is empty; leaf 3 is empty; "
        "leaf 4 is empty"
    )


def test_checked_reports_a_field_of_the_wrong_type() -> None:
    assert message_of(ValueError, checked, Tree(3)) == (  # type: ignore[arg-type]
        "not a well-formed Tree: a field has the wrong type ('int' object is not iterable)"
    )


@pytest.mark.parametrize("noun", nouns(), ids=lambda noun: type(noun).__name__)
def test_every_noun_survives_json(noun: Any) -> None:
    back = type(noun).from_json(noun.to_json())
    assert back == noun
    assert back.to_json() == noun.to_json()
    assert serial.digest(back) == serial.digest(noun)
    assert str(back) == str(noun)


@pytest.mark.parametrize("kind", [Einsum, TensorNetwork, Plan, Program])
@pytest.mark.parametrize("noun", nouns(), ids=lambda noun: type(noun).__name__)
def test_no_noun_is_read_as_another(kind: Any, noun: Any) -> None:
    if isinstance(noun, kind):
        return
    with pytest.raises(ValueError, match=f"^expected (a {kind.__name__}, got a|one of {kind.__name__})"):
        kind.from_json(noun.to_json())


def corrupted(noun: Any) -> list[str]:
    """Return the text of `noun` with each part of it in turn replaced by strangers."""
    strangers = [None, -1, 10**30, 1.5, True, "__import__('os')", [], [[0]], {"is": "Value"}]
    texts = []

    def walk(data: Any, put: Any) -> None:
        for stranger in strangers:
            put(stranger)
            texts.append(json.dumps(whole))
        put(data)
        if isinstance(data, list):
            for k, item in enumerate(data):
                walk(item, lambda x, k=k, data=data: data.__setitem__(k, x))
        if isinstance(data, dict):
            for key, item in list(data.items()):
                walk(item, lambda x, key=key, data=data: data.__setitem__(key, x))

    whole = json.loads(noun.to_json())
    walk(whole["noun"], lambda x: whole.__setitem__("noun", x))
    return texts


@pytest.mark.parametrize("noun", nouns(), ids=lambda noun: type(noun).__name__)
def test_a_corrupted_text_is_refused_or_read_as_a_noun_without_faults(noun: Any) -> None:
    kind = type(noun)
    for text in corrupted(noun):
        try:
            back = kind.from_json(text)
        except ValueError:
            continue
        assert type(back) is kind
        assert back.faults() == []
        str(back)


def test_the_format_number_is_part_of_the_text() -> None:
    assert json.loads(dumps(TREE))["format"] == FORMAT

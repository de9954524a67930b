"""The parser: what an expression denotes, and every message about one that denotes nothing."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import pytest

from contractc.errors import EinsumError
from contractc.notation import (
    ELLIPSIS,
    Einsum,
    labelled,
    numpy_refuses,
    parse,
    parse_interleaved,
    written,
)
from messages import message_of

MATMUL = Einsum(((0, 1), (1, 2)), ((0, 2),))


@pytest.mark.parametrize(
    ("text", "inputs", "outputs"),
    [
        ("ij,jk->ik", ((0, 1), (1, 2)), ((0, 2),)),
        (" i\tj ,\nj k -> i\r k\f\v", ((0, 1), (1, 2)), ((0, 2),)),
        ("ij,jk", ((0, 1), (1, 2)), ((0, 2),)),
        ("ba", ((0, 1),), ((1, 0),)),
        ("aB", ((0, 1),), ((1, 0),)),
        ("ii", ((0, 0),), ((),)),
        ("", ((),), ((),)),
        ("->", ((),), ((),)),
        (",,->", ((), (), ()), ((),)),
        ("ij,jk->ik,i,", ((0, 1), (1, 2)), ((0, 2), (0,), ())),
        ("i->ii", ((0,),), ((0, 0),)),
        ("...ij,j...->...i", ((ELLIPSIS, 0, 1), (1, ELLIPSIS)), ((ELLIPSIS, 0),)),
        ("b...a", ((0, ELLIPSIS, 1),), ((ELLIPSIS, 1, 0),)),
        ("αβ,βγ", ((0, 1), (1, 2)), ((0, 2),)),
        ("×é字,字Ω", ((0, 1, 2), (2, 3)), ((0, 1, 3),)),
        ("\u00a0a->a\u00a0", ((0, 1),), ((1, 0),)),
    ],
)
def test_parse_numbers_the_modes_in_order_of_first_appearance(text: str, inputs: Any, outputs: Any) -> None:
    expression = parse(text)
    assert (expression.inputs, expression.outputs) == (inputs, outputs)
    assert expression.faults() == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ij,j&->ik", "'&' is not a mode; modes are letters\n  ij,j&->ik\n      ^"),
        ("i1->i", "'1' is not a mode; modes are letters\n  i1->i\n   ^"),
        ("ij->i_", "'_' is not a mode; modes are letters\n  ij->i_\n       ^"),
        ("i-j->j", "'-' is not a mode; modes are letters\n  i-j->j\n   ^"),
        ("ij>i", "'>' is not a mode; modes are letters\n  ij>i\n    ^"),
        ("ij->>i", "'>' is not a mode; modes are letters\n  ij->>i\n      ^"),
        ("i\0->i", "U+0000 is not a mode; modes are letters\n  i?->i\n   ^"),
        ("i\u200bj->i", "U+200B is not a mode; modes are letters\n  i?j->i\n   ^"),
        ("i\ud800->i", "U+D800 is not a mode; modes are letters\n  i?->i\n   ^"),
        ("i->i\x85", "U+0085 is not a mode; modes are letters\n  i->i?\n      ^"),
        ("ij->jk->i", "more than one '->'\n  ij->jk->i\n    ^^  ^^"),
        ("ij,jk->im", "output mode 'm' is in no operand\n  ij,jk->im\n          ^"),
        ("->i", "output mode 'i' is in no operand\n  ->i\n    ^"),
        ("i...j...->i", "a term has at most one ellipsis\n  i...j...->i\n   ^^^ ^^^"),
        ("i......->i", "a term has at most one ellipsis\n  i......->i\n   ^^^^^^"),
        ("i->i...,......", "a term has at most one ellipsis\n  i->i...,......\n          ^^^^^^"),
        ("i..->i", "an ellipsis is three dots in a row\n  i..->i\n   ^^"),
        (". ..i", "an ellipsis is three dots in a row\n  . ..i\n  ^ ^^"),
        ("ij,....k", "an ellipsis is three dots in a row\n  ij,....k\n     ^^^^"),
    ],
)
def test_parse_points_at_the_offending_character(text: str, message: str) -> None:
    assert message_of(EinsumError, parse, text) == message


@pytest.mark.parametrize("semiring", ["plus_times", "", None, 3, ["sum_product"]])
def test_parse_refuses_an_unknown_semiring(semiring: Any) -> None:
    assert message_of(EinsumError, parse, "i->", semiring) == (
        f"no semiring is called {semiring!r}; there are sum_product, max_plus, min_plus, max_times, or_and, "
        "log_sum_exp"
    )


def test_equality_ignores_letters_blanks_and_text() -> None:
    assert parse("ij,jk->ik") == parse("ab, bc -> ac") == parse("ij,jk") == MATMUL
    assert hash(parse("ij,jk->ik")) == hash(MATMUL)
    assert parse("ij,jk->ik") != parse("ij,jk->ki")
    assert parse("ij,jk->ik") != parse("ij,jk->ik", "max_plus")


@pytest.mark.parametrize(
    ("terms", "output", "shown"),
    [
        ([[0, 1], [1, 2]], [0, 2], "0 1, 1 2 -> 0 2"),
        ([["i", "j"], ["j", "k"]], ["i", "k"], "ij,jk->ik"),
        ([["left", "bond"], ["bond", "right"]], ["left", "right"], "left bond, bond right -> left right"),
        ([[("q", 0), ("q", 1)]], [("q", 1)], "('q',?0) ('q',?1) -> ('q',?1)"),
        ([[frozenset({1})], [None]], [None], "frozenset({1}), None -> None"),
        ([[..., 0], [0, ...]], [...], "... 0, 0 ... -> ..."),
        ([[], [7]], [], ", 7 ->"),
        ([[2, 1], [1, 0]], None, "2 1, 1 0 -> 0 2"),
        ([["B", ..., "a"]], None, "B...a->...Ba"),
        ([""], None, "->"),
        ([range(2), iter((1, 2))], (0, 2), "0 1, 1 2 -> 0 2"),
    ],
)
def test_parse_interleaved_takes_any_hashable_label(terms: Any, output: Any, shown: str) -> None:
    expression = parse_interleaved(terms, output)
    assert str(expression) == shown
    assert expression.faults() == []


def test_interleaved_and_text_form_of_one_expression_are_equal() -> None:
    assert parse_interleaved([[5, "x"], ["x", 9]], [5, 9]) == MATMUL


def test_labels_that_are_equal_are_one_mode() -> None:
    assert parse_interleaved([[1, 2], [2.0, True]], []) == parse("ij,ji->")


@pytest.mark.parametrize(
    ("terms", "output", "message"),
    [
        ([[0, 1]], [0, 5], "output mode '5' is in no operand\n  0 1 -> 0 5\n           ^"),
        ([["i"]], ["i", "j"], "output mode 'j' is in no operand\n  i->ij\n      ^"),
        ([[0, [1]]], None, "the label of operand 0, axis 1, is not hashable: [1]"),
        ([[0]], [{}], "the label of the output, axis 0, is not hashable: {}"),
        ([[0, "x"]], None, "these labels cannot be sorted, so the output has to be given"),
        ([[0], [..., 1, ...]], None, "the labels of operand 1 have more than one ellipsis"),
        ([[...]], [..., ...], "the labels of the output have more than one ellipsis"),
    ],
)
def test_parse_interleaved_says_what_is_wrong(terms: Any, output: Any, message: str) -> None:
    assert message_of(EinsumError, parse_interleaved, terms, output) == message


@pytest.mark.parametrize(
    ("terms", "output", "message"),
    [
        ([[0, 1], 3], None, "the labels of operand 1 are 3, not a sequence"),
        ([[0, 1]], 0, "the labels of the output are 0, not a sequence"),
    ],
)
def test_parse_interleaved_wants_sequences_of_labels(terms: Any, output: Any, message: str) -> None:
    assert message_of(TypeError, parse_interleaved, terms, output) == message


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("a\nb", "a?b"),
        ("", "?"),
        ("x" * 99, "x" * 24),
        ("');import os;('", "');import?os;('"),
        ("\x1b[0m", "?[0m"),
    ],
)
def test_labels_are_shown_as_one_short_printable_word(label: Hashable, shown: str) -> None:
    assert parse_interleaved([[label, "other"]], [label]).labels == (shown, "other")


@pytest.mark.parametrize("text", ["ij,jk->ik", "...i->i...", "i->ii", "i,j->ij,,i", "->", "aα,αb->ab"])
def test_the_printed_form_is_read_as_the_same_expression(text: str) -> None:
    assert str(parse(text)) == text
    assert parse(str(parse(text))) == parse(text)


def test_the_printed_form_has_the_users_letters_and_the_output() -> None:
    assert str(parse(" b a ")) == "ba->ab"
    assert str(MATMUL) == "m0 m1, m1 m2 -> m0 m2"
    assert str(replace(MATMUL, labels=("i", "j", "k"))) == "ij,jk->ik"


def test_labelled_names_the_modes_of_an_expression_without_labels() -> None:
    assert labelled(MATMUL).labels == ("m0", "m1", "m2")
    assert labelled(Einsum(((),), ((),))).labels == ()
    assert labelled(parse("ij")).labels == ("i", "j")


@pytest.mark.parametrize(
    "text", ["ij,jk->ik", " i j,\tjk -> i k", "a...b , ...->b...", "ij , j", "->", ",,->", "α...,β->βα,..."]
)
def test_written_finds_every_axis_in_the_text(text: str) -> None:
    expression = parse(text)
    shown = written(expression)
    assert shown.text == text
    terms = (*expression.inputs, *expression.outputs) if "->" in text else expression.inputs
    assert len(shown.starts) == len(shown.axes) == len(terms)
    for term, row in zip(terms, shown.axes, strict=True):
        for mode, at in zip(term, row, strict=True):
            if mode == ELLIPSIS:
                assert text[at : at + 3] == "..."
            else:
                assert text[at] == expression.labels[mode]


def test_written_finds_every_axis_of_an_expression_without_text() -> None:
    shown = written(parse_interleaved([["left", 7], [7, ...]], [..., "left"]))
    assert shown.text == "left 7, 7 ... -> ... left"
    assert shown.axes == ((0, 5), (8, 10), (17, 21))
    assert shown.starts == (0, 8, 17)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("i->ii", "output mode 'i' is repeated; contract accepts that\n  i->ii\n     ^^"),
        ("ij->jij", "output mode 'j' is repeated; contract accepts that\n  ij->jij\n      ^ ^"),
        ("ij->i,j", "einsum has one output; contract takes several\n  ij->i,j\n       ^"),
        ("ij->,", "einsum has one output; contract takes several\n  ij->,\n      ^"),
        ("ij,jk->ik", None),
        ("ij", None),
    ],
)
def test_numpy_refuses_says_why(text: str, message: str | None) -> None:
    assert numpy_refuses(parse(text)) == message


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 52], "label 52 is not one of 0 to 51; contract takes any\n  0 52 -> 0"),
        ([0, -1], "label -1 is not one of 0 to 51; contract takes any\n  0 -1 -> 0"),
        ([0, "a"], "label a is not one of 0 to 51; contract takes any\n  0 a -> 0"),
        ([0, 51], None),
    ],
)
def test_numpy_refuses_labels_out_of_its_range(labels: list[Hashable], message: str | None) -> None:
    expression = parse_interleaved([labels], labels[:1])
    assert numpy_refuses(expression, in_range=True) == message
    assert numpy_refuses(expression) is None


@pytest.mark.parametrize(
    ("expression", "faults"),
    [
        (Einsum(((1, 0),), ((0,),)), ["modes are not numbered in order of first appearance"]),
        (Einsum(((0, 2),), ((0,),)), ["modes are not numbered in order of first appearance"]),
        (Einsum(((0, 1),), ((0,),), labels=("i",)), ["1 labels for 2 modes"]),
        (Einsum(((-1, -1),), ((),)), ["term (-1, -1) has more than one ellipsis"]),
        (Einsum(((0,),), ((1,),)), ["output mode 1 is in no operand"]),
        (Einsum((), ((),)), ["no operands or no outputs"]),
        (Einsum(((0,),), ()), ["no operands or no outputs"]),
        (Einsum(((0,),), ((),), "plus"), ["no semiring is called 'plus'"]),
        (MATMUL, []),
    ],
)
def test_faults_names_each_broken_rule(expression: Einsum, faults: list[str]) -> None:
    assert expression.faults() == faults


@pytest.mark.parametrize("text", ["ij,jk->ik", "...i->i...", "i,j->ij,,i", "", "αβ,βγ"])
def test_an_expression_survives_json(text: str) -> None:
    expression = parse(text, "min_plus")
    back = Einsum.from_json(expression.to_json())
    assert (back, back.labels) == (expression, expression.labels)
    assert str(back) == str(expression)


def test_the_output_is_found_in_a_text_of_a_million_characters() -> None:
    text = "ab," * 333_333 + "b->a"
    expression = parse(text)
    assert len(expression.inputs) == 333_334
    assert expression.outputs == ((0,),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("." * 1_000_000, f"a term has at most one ellipsis\n  {'.' * 100} ...\n  {'^' * 100}"),
        ("a" * 1_000_000 + "&", f"'&' is not a mode; modes are letters\n  ... {'a' * 99}&\n{' ' * 105}^"),
        ("->" * 500_000, f"more than one '->'\n  {'->' * 50} ...\n  ^^^^"),
        ("," * 999_999 + "->i", f"output mode 'i' is in no operand\n  ... {',' * 97}->i\n{' ' * 105}^"),
    ],
    ids=["dots", "letters", "arrows", "commas"],
)
def test_a_text_of_a_million_characters_is_refused(text: str, message: str) -> None:
    assert message_of(EinsumError, parse, text) == message

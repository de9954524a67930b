"""The errors, and the one function that draws carets."""

from __future__ import annotations

import pytest

import contractc
from contractc.errors import WINDOW, BundleError, EinsumError, OperandError, StoreError, pointed


@pytest.mark.parametrize(
    ("error", "base"),
    [
        (contractc.EinsumError, ValueError),
        (contractc.OperandError, ValueError),
        (contractc.ResourceLimitError, MemoryError),
        (contractc.UnsupportedError, NotImplementedError),
        (StoreError, Exception),
        (BundleError, Exception),
    ],
)
def test_errors_have_the_base_that_callers_catch(error: type[Exception], base: type[Exception]) -> None:
    assert error.__bases__ == (base,)


def test_pointed_puts_a_caret_under_each_position() -> None:
    assert pointed("wrong", "ij,jk", [3, 1, 1]) == "wrong\n  ij,jk\n   ^ ^"


def test_pointed_without_positions_shows_the_text_alone() -> None:
    assert pointed("wrong", "ij,jk", ()) == "wrong\n  ij,jk"


def test_pointed_marks_a_place_behind_the_text() -> None:
    assert pointed("wrong", "ij->", [4]) == "wrong\n  ij->\n      ^"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", "a?b"),
        ("a\x1b[31mb", "a?[31mb"),
        ("a\u202eb", "a?b"),
        ("a\U000e0041b", "a?b"),
    ],
)
def test_pointed_shows_what_would_disturb_a_terminal_as_a_question_mark(text: str, shown: str) -> None:
    assert pointed("wrong", text, ()) == f"wrong\n  {shown}"


def test_pointed_counts_columns_not_characters() -> None:
    assert pointed("wrong", "字b", [1]) == "wrong\n  字b\n    ^"
    assert pointed("wrong", "e\u0301b", [2]) == "wrong\n  e\u0301b\n   ^"


def test_pointed_cuts_a_long_text_around_the_first_caret() -> None:
    text = "a" * 500 + "&" + "b" * 500
    message, shown, carets = pointed("wrong", text, [500, 999]).split("\n")
    assert message == "wrong"
    assert shown == "  ... " + "a" * 50 + "&" + "b" * 49 + " ..."
    assert carets == " " * (2 + 4 + 50) + "^"


def test_pointed_cuts_at_the_ends_of_a_long_text() -> None:
    assert pointed("wrong", "&" + "a" * 500, [0]) == "wrong\n  &" + "a" * (WINDOW - 1) + " ...\n  ^"
    end = "wrong\n  ... " + "a" * (WINDOW - 1) + "&\n" + " " * (6 + WINDOW - 1) + "^"
    assert pointed("wrong", "a" * 500 + "&", [500]) == end


def test_pointed_draws_the_first_of_a_million_carets() -> None:
    text = "a" * 60 + "." * 1_000_000
    assert pointed("wrong", text, range(60, len(text))).count("^") == WINDOW - 50


def test_messages_with_carets_are_the_text_of_the_error() -> None:
    with pytest.raises(EinsumError) as caught:
        contractc.contract("ij,jk->im", [[1.0]], [[1.0]])
    assert str(caught.value) == "output mode 'm' is in no operand\n  ij,jk->im\n          ^"
    with pytest.raises(OperandError) as other:
        contractc.plan("ij,jk->ik", (3, 4), (7, 5))
    assert str(other.value) == (
        "mode 'j' is 4 in operand 0 (axis 1) but 7 in operand 1 (axis 0)\n  ij,jk->ik\n   ^ ^"
    )

"""Marginals and best assignments against all assignments of small models, and on large chains and grids."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import contractc
import reference
from contractc import OperandError, UnsupportedError
from messages import message_of
from strategies import Formal, formals

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]

BEST = ("max_plus", "min_plus", "max_times")
RINGS = (*BEST, "sum_product", "log_sum_exp")


def drawn(formal: Formal, semiring: str, *, ties: bool = True) -> list[np.ndarray]:
    rng = np.random.default_rng(formal.seed)
    low = 0 if semiring == "max_times" else -3
    made = [rng.integers(low, 4, formal.shape(term)).astype(float) for term in formal.inputs]
    return made if ties else [x + rng.random(x.shape) for x in made]


def worth(semiring: str, terms: Any, operands: Any, places: dict[str, int]) -> float:
    """Return the product of one element of each operand, in the semiring."""
    parts = [x[tuple(places[c] for c in term)] for term, x in zip(terms, operands, strict=True)]
    return float(np.prod(parts) if semiring in ("max_times", "sum_product") else np.sum(parts))


# every assignment


@given(formals(max_operands=5, extents=(2, 3, 1, 2)), st.sampled_from(BEST))
def test_a_best_assignment_attains_the_value_at_every_position(formal: Formal, semiring: str) -> None:
    operands = drawn(formal, semiring)
    value, places = contractc.best_assignment(formal.text, *operands, semiring=semiring)
    (exact,) = reference.evaluate(*reference.parse(formal.text), operands, semiring)
    np.testing.assert_array_equal(value, exact.astype(float))
    summed = [c for c in formal.symbols if c not in formal.output]
    assert list(places) == summed
    own = list(dict.fromkeys(formal.output))
    for position in itertools.product(*(range(formal.extents[c]) for c in own)):
        at = dict(zip(own, position, strict=True))
        here = tuple(at[c] for c in formal.output)
        chosen = {c: int(np.asarray(places[c])[here]) for c in summed}
        assert worth(semiring, formal.inputs, operands, at | chosen) == np.asarray(value)[here]
    again = contractc.best_assignment(formal.text, *operands, semiring=semiring)[1]
    assert all(np.array_equal(places[c], again[c]) for c in summed)
    if not formal.output:
        assert all(type(place) is int for place in places.values())


@given(formals(max_operands=5, extents=(2, 3, 1, 2, 0)), st.sampled_from(RINGS))
def test_marginals_are_contractions_to_one_mode(formal: Formal, semiring: str) -> None:
    operands = [np.abs(x) for x in drawn(formal, semiring)]
    found = contractc.marginals(formal.text, *operands, semiring=semiring)
    assert list(found) == formal.symbols
    for mode, marginal in found.items():
        text = ",".join(formal.inputs) + "->" + mode
        expected = reference.einsum(text, *operands, semiring=semiring).astype(float)
        np.testing.assert_allclose(marginal, expected, rtol=1e-12)


def test_of_equal_terms_the_first_is_taken() -> None:
    x = np.zeros((3, 4))
    assert contractc.best_assignment("ab,ba->", x, x.T)[1] == {"a": 0, "b": 0}
    x[1, 2] = x[2, 1] = 7
    assert contractc.best_assignment("ab->", x)[1] == {"a": 1, "b": 2}
    assert contractc.best_assignment("ab->", -x, semiring="min_plus")[1] == {"a": 1, "b": 2}


def test_blocks_give_the_same_places(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    operands = [rng.standard_normal((5, 6)), rng.standard_normal((6, 7))]
    value, places = contractc.best_assignment("ab,bc->ac", *operands)
    monkeypatch.setattr("contractc.graphical.BLOCK", 7)
    again, blocked = contractc.best_assignment("ab,bc->ac", *operands)
    np.testing.assert_array_equal(value, again)
    np.testing.assert_array_equal(places["b"], blocked["b"])
    np.testing.assert_array_equal(places["b"], (operands[0][:, :, None] + operands[1]).argmax(1))


@pytest.mark.skipif(torch is None, reason="torch is not installed")
def test_tensors_of_torch() -> None:
    x, y = torch.arange(6.0).reshape(2, 3).requires_grad_(), torch.ones(3, 2)
    value, places = contractc.best_assignment("ab,bc->", x, y)
    assert isinstance(value, torch.Tensor) and value.item() == 6
    assert places == {"a": 1, "b": 2, "c": 0}
    found = contractc.marginals("ab,bc->", x, y, semiring="max_plus", modes="b")
    assert list(found) == ["b"] and found["b"].tolist() == [4, 5, 6]


# large models


def test_a_chain_of_three_thousand_sites() -> None:
    rng = np.random.default_rng(5)
    steps = rng.integers(-9, 9, (1500, 3, 3)).astype(float)
    pairs = [part for k, x in enumerate(steps) for part in (x, (k, k + 1))]
    sites = [part for k in range(1500) for part in (np.zeros(3), (k,))]
    value, places = contractc.best_assignment(*pairs, *sites, ())
    best = np.zeros(3)
    for x in steps:
        best = (best[:, None] + x).max(0)
    assert value == best.max() == sum(x[places[str(k)], places[str(k + 1)]] for k, x in enumerate(steps))


def test_marginals_of_a_long_chain() -> None:
    rng = np.random.default_rng(6)
    steps = rng.random((300, 3, 3))
    pairs = [part for k, x in enumerate(np.log(steps)) for part in (x, (k, k + 1))]
    found = contractc.marginals(*pairs, (), semiring="log_sum_exp")
    up, down = [np.ones(3)], [np.ones(3)]
    for x, y in zip(steps, steps[::-1], strict=True):
        up.append(up[-1] @ x / 1.5)
        down.append(y @ down[-1] / 1.5)
    for k in range(301):
        exact = np.log(up[k] * down[300 - k]) + 300 * np.log(1.5)
        np.testing.assert_allclose(found[str(k)], exact, rtol=1e-12)


def test_a_grid_has_its_ground_state() -> None:
    """A frustrated Ising model on 5 x 5 sites in a field: all states by rows."""
    rng = np.random.default_rng(8)
    n = 5
    across, downwards = rng.choice([-1.0, 1.0], (2, n, n))
    field = rng.normal(size=(n, n))
    spin = np.array([-1.0, 1.0])
    energies, fields = [], []
    for r, c in itertools.product(range(n), range(n)):
        fields += [field[r, c] * spin, (f"{r},{c}",)]
        energies += [across[r, c] * np.outer(spin, spin), (f"{r},{c}", f"{r},{c + 1}")] if c + 1 < n else []
        energies += (
            [downwards[r, c] * np.outer(spin, spin), (f"{r},{c}", f"{r + 1},{c}")] if r + 1 < n else []
        )
    value, places = contractc.best_assignment(*energies, *fields, (), semiring="min_plus")
    rows = np.array(list(itertools.product(spin, repeat=n)))
    total = np.zeros(1)
    for r in range(n):
        own = rows @ field[r] + (rows[:, :-1] * rows[:, 1:]) @ across[r, : n - 1]
        between = (total[:, None] + (rows * downwards[r - 1]) @ rows.T).min(0) if r else np.zeros(len(rows))
        total = own + between
    state = spin[[[places[f"{r},{c}"] for c in range(n)] for r in range(n)]]
    energy = (state * field).sum() + (state[:, :-1] * state[:, 1:] * across[:, : n - 1]).sum()
    energy += (state[:-1] * state[1:] * downwards[: n - 1]).sum()
    np.testing.assert_allclose([value, energy], total.min(), rtol=1e-12)


# a classic model

ASIA: dict[str, Any] = {
    "a": [0.99, 0.01],
    "at": [[0.99, 0.01], [0.95, 0.05]],
    "s": [0.5, 0.5],
    "sl": [[0.99, 0.01], [0.9, 0.1]],
    "sb": [[0.7, 0.3], [0.4, 0.6]],
    "tle": [[[1, 0], [0, 1]], [[0, 1], [0, 1]]],
    "ex": [[0.95, 0.05], [0.02, 0.98]],
    "bed": [[[0.9, 0.1], [0.3, 0.7]], [[0.2, 0.8], [0.1, 0.9]]],
}
"""The chest clinic of Lauritzen and Spiegelhalter (1988): visit to Asia, tuberculosis, smoking, lung cancer,
bronchitis, either of two, X-ray, dyspnoea; position 1 is yes, the last mode the one that has the others as parents."""


def test_the_chest_clinic() -> None:
    """Marginals are those of the publication, given evidence those of the joint table of all variables."""
    text, tables = ",".join(ASIA) + "->", [np.array(x, float) for x in ASIA.values()]
    found = contractc.marginals(text, *tables)
    published = {"t": 0.0104, "l": 0.055, "b": 0.45, "e": 0.0648, "x": 0.1103, "d": 0.436}
    for mode, probability in published.items():
        np.testing.assert_allclose(found[mode], [1 - probability, probability], atol=5e-5)
    evidence = [*tables, np.array([0.0, 1]), np.array([0.0, 1])]
    text = ",".join(ASIA) + ",x,d->"
    joint = np.einsum(",".join(ASIA) + ",x,d->atslbexd", *evidence)
    found = contractc.marginals(text, *evidence)
    for axis, mode in enumerate("atslbexd"):
        np.testing.assert_allclose(
            found[mode], joint.sum(tuple(k for k in range(8) if k != axis)), rtol=1e-12
        )
    value, places = contractc.best_assignment(text, *evidence, semiring="max_times")
    best = np.unravel_index(joint.argmax(), joint.shape)
    np.testing.assert_allclose(value, joint.max(), rtol=1e-12)
    assert places == dict(zip("atslbexd", map(int, best), strict=True))


def test_labels_name_results_in_full() -> None:
    """Messages shorten labels; two long ones that begin alike are two modes, and two that print alike are refused."""
    one, two = "probability of the first of all", "probability of the first of many"
    x = np.array([[0.0, 1.0], [3.0, 2.0]])
    assert contractc.best_assignment(x, [one, two], [])[1] == {one: 1, two: 0}
    found = contractc.marginals(x, [one, two], [])
    assert {label: list(sums) for label, sums in found.items()} == {one: [1.0, 5.0], two: [3.0, 3.0]}
    assert contractc.marginals(x, [one, two], [], modes=[two])[two].tolist() == [3.0, 3.0]
    assert contractc.best_assignment(x, ["a", "b"])[1] == {}
    text = message_of(OperandError, contractc.marginals, x, [1, "1"], [])
    assert text == "two modes are called '1', so their results could not be told apart"


# errors


def test_what_has_no_answer_is_refused() -> None:
    x = np.ones((2, 2))
    text = message_of(UnsupportedError, contractc.best_assignment, "ab->", x, semiring="sum_product")
    assert text == "best_assignment needs one of max_plus, min_plus, max_times, not sum_product"
    text = message_of(UnsupportedError, contractc.best_assignment, "ab->a,b", x)
    assert text == "best_assignment is that of one output, not of 2"
    text = message_of(OperandError, contractc.best_assignment, "ab->", np.ones((2, 0)))
    assert text == "mode 'b' has extent 0, so there is no best position"
    text = message_of(OperandError, contractc.marginals, "ab->", x, modes="c")
    assert text == "mode 'c' is in no operand"

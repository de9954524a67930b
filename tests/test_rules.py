"""The rules of the einsum language (R1 to R20) as properties, over every semiring for which a rule holds.

Each is checked metamorphically (both sides computed by contractc) and one side against the loop reference.
Names of the rules follow Wenig, Rump, Blacher, Giesen, "The Syntax and Semantics of einsum" (2025).
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import contractc
import reference
from strategies import RINGS, Formal, Ring, formals

few = settings(max_examples=25)
every_ring = pytest.mark.parametrize("ring", RINGS, ids=lambda ring: ring.name)
subtractive = pytest.mark.parametrize(
    "ring", [r for r in RINGS if r.semiring == "sum_product"], ids=lambda ring: ring.name
)


def compute(ring: Ring, text: str, *operands: Any) -> Any:
    return contractc.contract(text, *operands, semiring=ring.semiring)


def equal(ring: Ring, actual: Any, expected: Any) -> None:
    """Fail unless both are the same: exactly, or to rounding where the operations round."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype == np.dtype(ring.dtype)
    if ring.exact:
        np.testing.assert_array_equal(actual, expected)
    else:
        np.testing.assert_allclose(actual, expected, rtol=1e-13, atol=1e-12)


def truth(ring: Ring, text: str, *operands: Any) -> np.ndarray:
    """Return the reference's value."""
    exact = reference.einsum(text, *operands, semiring=ring.semiring)
    return reference.as_dtype(exact, ring.dtype)


def checked(ring: Ring, text: str, *operands: Any) -> Any:
    """Return contractc's value after comparing it with the reference's (where that takes no time)."""
    value = compute(ring, text, *operands)
    inputs, _ = reference.parse(text)
    if reference.positions(inputs, [np.shape(x) for x in operands]) <= 400:
        equal(ring, value, truth(ring, text, *operands))
    return value


def join(inputs: Iterable[str], output: str) -> str:
    return ",".join(inputs) + "->" + output


def renamed(term: str, names: dict[str, str]) -> str:
    return "".join(names.get(c, c) for c in term)


def delta(ring: Ring, extents: Sequence[int]) -> np.ndarray:
    """Return the tensor of order 2 len(extents) that is one where both halves agree, else zero."""
    tensor = ring.zeros([*extents, *extents])
    for at in np.ndindex(*extents):
        tensor[at + at] = ring.one
    return tensor


def copy_node(ring: Ring, extent: int, legs: int) -> np.ndarray:
    """Return the tensor with `legs` axes that is one where all coordinates agree, else zero."""
    tensor = ring.zeros([extent] * legs)
    for k in range(extent):
        tensor[(k,) * legs] = ring.one
    return tensor


@every_ring
@few
@given(formals(min_operands=2), st.randoms(use_true_random=False))
def test_r1_permuting_operands_with_their_terms_changes_nothing(ring: Ring, x: Formal, shuffle: Any) -> None:
    operands = x.operands(ring)
    order = list(range(len(operands)))
    shuffle.shuffle(order)
    permuted = join((x.inputs[k] for k in order), x.output)
    equal(ring, compute(ring, permuted, *(operands[k] for k in order)), checked(ring, x.text, *operands))


@every_ring
@few
@given(formals(), st.permutations(string.ascii_letters[:30] + "αβ×"))
def test_r2_renaming_modes_changes_nothing(ring: Ring, x: Formal, letters: list[str]) -> None:
    operands = x.operands(ring)
    names = dict(zip(x.symbols, letters, strict=False))
    text = join((renamed(term, names) for term in x.inputs), renamed(x.output, names))
    equal(ring, compute(ring, text, *operands), checked(ring, x.text, *operands))


def test_r2_identifying_two_modes_is_not_renaming() -> None:
    x = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert contractc.contract("ij->", x) == 10.0
    assert contractc.contract("ii->", x) == 5.0


@every_ring
@few
@given(formals(), st.integers(0, 3))
def test_r3_a_sum_of_operands_gives_the_sum_of_results(ring: Ring, x: Formal, which: int) -> None:
    operands = x.operands(ring)
    which %= len(operands)
    other = ring.draw(np.random.default_rng(x.seed ^ 1), operands[which].shape)

    def put(value: np.ndarray) -> list[np.ndarray]:
        return [value if k == which else y for k, y in enumerate(operands)]

    together = checked(ring, x.text, *put(ring.add(operands[which], other)))
    apart = ring.add(compute(ring, x.text, *operands), compute(ring, x.text, *put(other)))
    equal(ring, together, apart)


@every_ring
@few
@given(formals(min_operands=2), st.integers(0, 15))
def test_r4_any_group_of_operands_may_be_contracted_first(ring: Ring, x: Formal, mask: int) -> None:
    operands = x.operands(ring)
    group = [k for k in range(len(operands)) if mask >> k & 1]
    rest = [k for k in range(len(operands)) if k not in group]
    assume(group)
    outside = "".join(x.inputs[k] for k in rest) + x.output
    inner_output = "".join(dict.fromkeys(c for k in group for c in x.inputs[k] if c in outside))
    inner = checked(ring, join((x.inputs[k] for k in group), inner_output), *(operands[k] for k in group))
    outer = join([inner_output, *(x.inputs[k] for k in rest)], x.output)
    nested = compute(ring, outer, inner, *(operands[k] for k in rest))
    equal(ring, nested, checked(ring, x.text, *operands))


@few
@given(formals(min_operands=1, min_order=1, repeated_output=False))
def test_r4_a_group_that_drops_a_needed_mode_is_rejected(x: Formal) -> None:
    assume(x.output)
    lost = x.output[0]
    kept = [term.replace(lost, "") for term in x.inputs]
    with pytest.raises(contractc.EinsumError):
        contractc.contract(join(kept, x.output), *(np.ones(x.shape(term)) for term in kept))


@every_ring
@few
@given(
    formals(max_operands=3, symbols="abc", min_order=1, same_extent=True, repeated_output=False),
    formals(max_operands=2, symbols="ijk", same_extent=True),
    st.lists(st.integers(0, 2), max_size=3),
    st.lists(st.sampled_from("ijkl"), min_size=3, max_size=3),
)
def test_r5_denesting_joins_the_modes_of_the_interface(
    ring: Ring, inner: Formal, outer: Formal, picks: list[int], letters: list[str]
) -> None:
    size = next(iter(inner.extents.values()))
    outer = Formal(outer.inputs, outer.output, dict.fromkeys(outer.extents, size), outer.seed)
    s_in = "".join(inner.symbols[k % len(inner.symbols)] for k in picks)  # duplicates are wanted, in both
    s_out = "".join(letters[: len(s_in)])
    used = set("".join(outer.inputs) + s_out)
    assume(set(outer.output) <= used)
    left, right = inner.operands(ring), outer.operands(ring)
    value = checked(ring, join(inner.inputs, s_in), *left)
    nested = compute(ring, join([s_out, *outer.inputs], outer.output), value, *right)
    names = components(zip(s_out, s_in, strict=True))
    terms = [renamed(term, names) for term in (*inner.inputs, *outer.inputs)]
    flat = checked(ring, join(terms, renamed(outer.output, names)), *left, *right)
    equal(ring, nested, flat)


def components(edges: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return for each symbol of a graph the symbol that stands for its connected component."""
    names: dict[str, str] = {}
    for x, y in edges:
        a, b = names.setdefault(x, x), names.setdefault(y, y)
        for symbol, name in list(names.items()):
            if name == b:
                names[symbol] = a
    return names


@every_ring
@few
@given(formals(max_operands=1))
def test_r6_a_term_to_itself_is_the_identity_if_its_modes_differ(ring: Ring, x: Formal) -> None:
    (term,), (operand,) = x.inputs, x.operands(ring)
    result = checked(ring, f"{term}->{term}", operand)
    if len(set(term)) == len(term):
        equal(ring, result, operand)
    else:
        agree = np.ones(operand.shape, bool)
        for at in np.ndindex(*operand.shape):
            values: dict[str, int] = {}
            agree[at] = all(values.setdefault(c, k) == k for c, k in zip(term, at, strict=True))
        equal(ring, result, np.where(agree, operand, ring.zeros(operand.shape)))


@every_ring
@few
@given(formals(min_operands=2, same_extent=True), st.integers(0, 9), st.integers(0, 9))
def test_r7_a_unit_matrix_identifies_its_two_modes(ring: Ring, x: Formal, first: int, second: int) -> None:
    assume(len(x.symbols) >= 2)
    a = x.symbols[first % len(x.symbols)]
    b = [c for c in x.symbols if c != a][second % (len(x.symbols) - 1)]
    operands = x.operands(ring)
    with_unit = compute(ring, join([a + b, *x.inputs], x.output), ring.unit(x.extents[a]), *operands)
    names = {b: a}
    without = join((renamed(term, names) for term in x.inputs), renamed(x.output, names))
    equal(ring, with_unit, checked(ring, without, *operands))


@every_ring
@pytest.mark.parametrize("extents", [(), (3,), (2, 3), (1, 2), (2, 1, 2)])
def test_r8_a_delta_is_ones_on_a_repeated_output(ring: Ring, extents: tuple[int, ...]) -> None:
    modes = "ijk"[: len(extents)]
    equal(ring, compute(ring, f"{modes}->{modes}{modes}", ring.ones(extents)), delta(ring, extents))


@every_ring
@pytest.mark.parametrize("extents", [(3,), (2, 3), (1, 2), (2, 1, 2)])
def test_r9_a_delta_is_a_product_of_unit_matrices(ring: Ring, extents: tuple[int, ...]) -> None:
    halves = "abc"[: len(extents)], "xyz"[: len(extents)]
    text = join((a + x for a, x in zip(*halves, strict=True)), "".join(halves))
    equal(ring, compute(ring, text, *map(ring.unit, extents)), delta(ring, extents))


@every_ring
@few
@given(formals(min_order=1, repeated_output=False), st.integers(0, 9))
def test_r10_a_repeated_output_mode_is_a_fresh_mode_and_a_unit_matrix(
    ring: Ring, x: Formal, where: int
) -> None:
    assume(x.output)
    c = x.output[where % len(x.output)]
    (fresh,) = x.fresh(1)
    operands = x.operands(ring)
    repeated = checked(ring, join(x.inputs, x.output + c), *operands)
    tied = compute(ring, join([*x.inputs, c + fresh], x.output + fresh), *operands, ring.unit(x.extents[c]))
    equal(ring, repeated, tied)


@every_ring
@few
@given(formals(min_order=1), st.lists(st.integers(0, 9), max_size=3))
def test_r11_an_operand_of_ones_on_modes_of_others_may_be_dropped(
    ring: Ring, x: Formal, picks: list[int]
) -> None:
    term = "".join(x.symbols[k % len(x.symbols)] for k in picks)
    operands = x.operands(ring)
    more = compute(ring, join([*x.inputs, term], x.output), *operands, ring.ones(x.shape(term)))
    equal(ring, more, checked(ring, x.text, *operands))


@every_ring
@few
@given(formals(), st.integers(1, 4))
def test_r11_ones_on_a_mode_of_their_own_multiply_by_its_extent(ring: Ring, x: Formal, extent: int) -> None:
    (fresh,) = x.fresh(1)
    operands = x.operands(ring)
    more = checked(ring, join([*x.inputs, fresh], x.output), *operands, ring.ones([extent]))
    once = compute(ring, x.text, *operands)
    total = once
    for _ in range(extent - 1):
        total = ring.add(total, once)
    equal(ring, more, total)
    if ring.idempotent:
        equal(ring, more, once)


@every_ring
@few
@given(formals(min_order=1))
def test_r12_slices_of_a_summed_mode_are_added(ring: Ring, x: Formal) -> None:
    summed = [c for c in x.symbols if c not in x.output]
    assume(summed)
    mode = summed[0]
    operands = x.operands(ring)
    total = None
    for k in range(x.extents[mode]):
        part = compute(ring, *sliced(x, operands, mode, k, x.output))
        total = part if total is None else ring.add(total, part)
    equal(ring, total, checked(ring, x.text, *operands))


@every_ring
@few
@given(formals(min_order=1, repeated_output=False))
def test_r12_slices_of_an_output_mode_are_put_side_by_side(ring: Ring, x: Formal) -> None:
    assume(x.output)
    mode = x.output[-1]
    operands = x.operands(ring)
    parts = [compute(ring, *sliced(x, operands, mode, k, x.output[:-1])) for k in range(x.extents[mode])]
    equal(ring, np.stack(parts, axis=-1), checked(ring, x.text, *operands))


def sliced(x: Formal, operands: Sequence[np.ndarray], mode: str, k: int, output: str) -> tuple[Any, ...]:
    """Return the arguments of the same expression with `mode` fixed at k (views, not copies)."""
    views = [
        operand[tuple(k if c == mode else slice(None) for c in term)]
        for operand, term in zip(operands, x.inputs, strict=True)
    ]
    return (join((term.replace(mode, "") for term in x.inputs), output), *views)


@every_ring
@few
@given(formals(symbols="abc", repeated_output=False), formals(symbols="xyz", repeated_output=False))
def test_r13_components_multiply(ring: Ring, x: Formal, y: Formal) -> None:
    left, right = x.operands(ring), y.operands(ring)
    both = compute(ring, join(x.inputs + y.inputs, x.output + y.output), *left, *right)
    first, second = checked(ring, x.text, *left), checked(ring, y.text, *right)
    equal(ring, both, np.asarray(ring.multiply.outer(first, second)).astype(ring.dtype))


@every_ring
@few
@given(formals(min_order=1), st.sampled_from([(2, 2), (1, 3), (3, 1), (2, 1)]), st.integers(0, 9))
def test_r14_neighbouring_modes_may_be_merged(
    ring: Ring, x: Formal, extents: tuple[int, int], which: int
) -> None:
    mode = x.symbols[which % len(x.symbols)]
    merged = Formal(x.inputs, x.output, {**x.extents, mode: math.prod(extents)}, x.seed)
    first, second = x.fresh(2)
    split = Formal(
        tuple(term.replace(mode, first + second) for term in x.inputs),
        x.output.replace(mode, first + second),
        {**x.extents, first: extents[0], second: extents[1]},
        x.seed,
    )
    operands = merged.operands(ring)
    views = [y.reshape(split.shape(term)) for y, term in zip(operands, split.inputs, strict=True)]
    whole = checked(ring, merged.text, *operands)
    parts = np.asarray(compute(ring, split.text, *views))
    equal(ring, parts.reshape(np.shape(whole)), whole)


@every_ring
@few
@given(formals(), st.integers(0, 9))
def test_r15_a_zero_operand_gives_zero(ring: Ring, x: Formal, which: int) -> None:
    operands = x.operands(ring)
    which %= len(operands)
    operands[which] = ring.zeros(operands[which].shape)
    result = checked(ring, x.text, *operands)
    equal(ring, result, ring.zeros(x.shape(x.output)))


@every_ring
@few
@given(formals(min_order=1))
def test_r16_an_empty_domain_gives_zero(ring: Ring, x: Formal) -> None:
    summed = [c for c in x.symbols if c not in x.output]
    assume(summed)
    empty = Formal(x.inputs, x.output, {**x.extents, summed[0]: 0}, x.seed)
    result = checked(ring, empty.text, *empty.operands(ring))
    equal(ring, result, ring.zeros(empty.shape(empty.output)))


RING = {ring.name: ring for ring in RINGS}


def real_valued(operands: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [np.round(abs(x)) for x in operands]


def keep(operands: Sequence[np.ndarray]) -> list[np.ndarray]:
    return list(operands)


HOMOMORPHISMS: dict[str, tuple[str, str, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "a sum of non-negative numbers is positive": ("real", "or_and", real_valued, lambda x: np.asarray(x) > 0),
    "a maximum is positive": ("max_times", "or_and", keep, lambda x: np.asarray(x) > 0),
    "the negative of a maximum": ("max_plus", "min_plus", keep, lambda x: -x),
    "two to the power of a maximum": ("max_plus", "max_times", real_valued, lambda x: 2.0**x),
    "integers modulo 2**64": ("int64", "uint64", keep, lambda x: np.asarray(x).astype(np.uint64)),
    "the conjugate": ("complex", "complex", keep, np.conj),
    "log of sums": ("log_sum_exp", "real", keep, np.exp),
}


@pytest.mark.parametrize("name", HOMOMORPHISMS)
@few
@given(formals())
def test_r17_a_homomorphism_commutes_with_einsum(name: str, x: Formal) -> None:
    source, target, prepare, h = HOMOMORPHISMS[name]
    operands = prepare(x.operands(RING[source]))
    after = h(compute(RING[source], x.text, *operands))
    before = compute(RING[target], x.text, *(np.asarray(h(y)) for y in operands))
    if source == "log_sum_exp":
        np.testing.assert_allclose(after, before, rtol=1e-12)
    else:
        equal(RING[target], after, before)


def test_r17_integers_modulo_256_agree_with_integers() -> None:
    rng = np.random.default_rng(0)
    operands = [rng.integers(-128, 128, size=shape) for shape in ((3, 4), (4, 5), (5,))]
    wide = contractc.contract("ij,jk,k->ik", *operands)
    narrow = contractc.contract("ij,jk,k->ik", *(x.astype(np.int8) for x in operands))
    assert narrow.dtype == np.int8
    np.testing.assert_array_equal(narrow, wide.astype(np.int8))


def pullback(x: Formal, which: int) -> tuple[str, list[str]]:
    """Return rule R18's expression for the cotangent of operand `which`, and the modes of its unit matrices.

    Its operands are the other operands, the cotangent with the output's term, and unit matrices that tie the
    modes of the operand to fresh output modes.
    """
    term = x.inputs[which]
    fresh = x.fresh(len(term))
    ties = [c + f for c, f in zip(term, fresh, strict=True)]
    others = [t for k, t in enumerate(x.inputs) if k != which]
    return join([*others, x.output, *ties], "".join(fresh)), list(term)


@subtractive
@few
@given(formals(max_operands=3), st.integers(0, 2))
def test_r18_the_pullback_is_the_adjoint_of_the_difference(ring: Ring, x: Formal, which: int) -> None:
    assume(math.prod(x.extents.values()) <= 200)
    which %= len(x.inputs)
    operands = x.operands(ring)
    rng = np.random.default_rng(x.seed ^ 2)
    step, cotangent = ring.draw(rng, operands[which].shape), ring.draw(rng, x.shape(x.output))
    text, tied = pullback(x, which)
    others = [y for k, y in enumerate(operands) if k != which]
    gradient = compute(ring, text, *others, cotangent, *(ring.unit(x.extents[c]) for c in tied))
    moved = [y + step if k == which else y for k, y in enumerate(operands)]
    difference = np.asarray(checked(ring, x.text, *moved)) - np.asarray(compute(ring, x.text, *operands))
    equal(ring, np.sum(gradient * step, dtype=ring.dtype), np.sum(difference * cotangent, dtype=ring.dtype))


@few
@given(formals(max_operands=3))
def test_r18_the_pullback_is_torch_autograd_through_contract(x: Formal) -> None:
    torch = pytest.importorskip("torch")
    assume(math.prod(x.extents.values()) <= 200)
    ring = RING["real"]
    arrays = x.operands(ring)
    cotangent = ring.draw(np.random.default_rng(x.seed ^ 2), x.shape(x.output))
    tensors = [torch.tensor(y, requires_grad=True) for y in arrays]
    result = contractc.contract(x.text, *tensors)
    gradients = torch.autograd.grad(result, tensors, torch.tensor(cotangent))
    for which, gradient in enumerate(gradients):
        text, tied = pullback(x, which)
        others = [y for k, y in enumerate(arrays) if k != which]
        expected = checked(ring, text, *others, cotangent, *(ring.unit(x.extents[c]) for c in tied))
        equal(ring, gradient.numpy(), expected)


@every_ring
@few
@given(formals(repeated_output=False), st.integers(1, 3), st.integers(0, 99))
def test_r19_scalars_commute_out(ring: Ring, x: Formal, count: int, at: int) -> None:
    operands = x.operands(ring)
    rng = np.random.default_rng(x.seed ^ 3)
    scalars = [ring.draw(rng, ()) for _ in range(count)]
    at %= len(operands) + 1
    inside = compute(
        ring,
        join([*x.inputs[:at], *[""] * count, *x.inputs[at:]], x.output),
        *operands[:at],
        *scalars,
        *operands[at:],
    )
    outside = checked(ring, x.text, *operands)
    for scalar in scalars:
        outside = ring.multiply(outside, scalar)
    equal(ring, inside, outside)


@every_ring
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_r19_scalars_alone_give_their_product(ring: Ring, count: int) -> None:
    rng = np.random.default_rng(count)
    scalars = [ring.draw(rng, ()) for _ in range(count)]
    product = scalars[0]
    for scalar in scalars[1:]:
        product = ring.multiply(product, scalar)
    equal(ring, checked(ring, "," * (count - 1) + "->", *scalars), product)


@every_ring
@few
@given(formals(min_order=1), st.integers(0, 9))
def test_r20_a_mode_is_a_copy_node_between_fresh_modes(ring: Ring, x: Formal, which: int) -> None:
    mode = x.symbols[which % len(x.symbols)]
    places = "".join((*x.inputs, x.output)).count(mode)
    fresh = iter(x.fresh(places))
    terms = ["".join(next(fresh) if c == mode else c for c in term) for term in (*x.inputs, x.output)]
    node = copy_node(ring, x.extents[mode], places)
    operands = x.operands(ring)
    legs = "".join(x.fresh(places))
    apart = compute(ring, join([*terms[:-1], legs], terms[-1]), *operands, node)
    equal(ring, apart, checked(ring, x.text, *operands))

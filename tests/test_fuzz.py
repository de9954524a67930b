"""Differential fuzz: contractc against the loop reference and against NumPy's own einsum.

2,000 fixed examples by default; `pytest --fuzz-examples N tests/test_fuzz.py` draws N others.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import contractc
import fuzzing
import reference
from fuzzing import share
from strategies import LAYOUTS, Case, expressions, laid_out, numpy_cases, torch_cases, values
from tolerances import tolerance

EDITS = ("", "", "i", "a", ",", ".", "...", "->", "-", ">", "i,", "&")
OUT_LAYOUTS = ("C", "F", "permuted", "reversed", "step", "unaligned", "swapped")
OPTIMIZE = (None, None, False, True, "greedy", "optimal", "path")


def numpy_result(case: Case, **options: Any) -> tuple[Any, type[Exception] | None]:
    """Return np.einsum's result and None, or None and the kind of error it raises."""
    try:
        return np.einsum(*case.arguments, **options), None
    except (ValueError, TypeError) as error:
        return None, TypeError if isinstance(error, TypeError) else ValueError


def assert_close(result: Any, case: Case, term: int, operands: Sequence[np.ndarray], dtype: str) -> None:
    """Check values against the reference; `operands` are exact NumPy arrays of what is to be multiplied."""
    exact = reference.evaluate(case.inputs, case.terms, operands)[term]
    got = np.asarray(result)
    assert got.shape == exact.shape
    if np.dtype(dtype if dtype != "bfloat16" else "float32").kind in "biu":
        np.testing.assert_array_equal(got, reference.as_dtype(exact, dtype))
        return
    sizes = reference.evaluate(case.inputs, case.terms, [abs(x) for x in operands])[term]
    length = reference.positions(case.inputs, [x.shape for x in operands])
    allowed = tolerance(dtype, length, len(operands), sizes.astype(np.float64))
    wide = "complex128" if dtype.startswith("complex") else "float64"
    error = abs(got.astype(wide) - exact.astype(wide))
    assert np.all(error <= allowed), f"error {error.max()}, allowed {allowed.flat[error.argmax()]}"


def random_path(rng: np.random.Generator, operands: int) -> list[tuple[int, ...]]:
    """Return a random linear path: pairs, now and then a single or a triple."""
    path = []
    while operands > 1:
        count = min(operands, int(rng.choice([2, 2, 2, 3])))
        path.append(tuple(sorted(int(k) for k in rng.choice(operands, count, replace=False))))
        operands -= count - 1
    return path or [(0,)]


def chosen(optimize: Any, case: Case, seed: int) -> dict[str, Any]:
    """Return the keyword arguments that ask for this order of contraction."""
    if optimize is None:
        return {}
    if optimize == "path":
        return {"optimize": random_path(np.random.default_rng(seed), len(case.operands))}
    return {"optimize": optimize}


needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")


@share(0.28)
@given(numpy_cases(), st.sampled_from(OPTIMIZE), st.sampled_from("KKKCFA"), st.integers(0, 99))
def test_einsum_agrees_with_numpy_and_the_reference(case: Case, optimize: Any, order: str, seed: int) -> None:
    expected, refusal = numpy_result(case, order=order)
    options = chosen(optimize, case, seed)
    if isinstance(options.get("optimize"), list):
        options["optimize"].insert(0, "einsum_path")
    if order != "K":
        options["order"] = order
    if refusal is not None:
        with pytest.raises(refusal):
            contractc.einsum(*case.arguments, **options)
        return
    before = [np.array(x) for x in case.operands]
    result = contractc.einsum(*case.arguments, **options)
    assert type(result) is type(expected)
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    if order in "CF" and expected.flags[f"{order}_CONTIGUOUS"]:
        assert result.flags[f"{order}_CONTIGUOUS"]
    dtype = np.result_type(*before)
    assert_close(result, case, 0, [x.astype(dtype) for x in before], dtype.name)
    for x, y in zip(before, case.operands, strict=True):
        np.testing.assert_array_equal(x, y, "an operand was changed")
    again = contractc.einsum(*case.arguments, **options)
    np.testing.assert_array_equal(result, again, "the second call differs from the first")


@pytest.mark.parametrize("dtype", ["float64", "int16", "complex64"])
@pytest.mark.parametrize("text", ["ij->ij", "ij->ji", "ii->i", "i...->...i", "...", "ji", "i...j"])
@pytest.mark.parametrize("layout", sorted(set(LAYOUTS)))
def test_einsum_returns_a_view_where_numpy_does(layout: str, text: str, dtype: str) -> None:
    rng = np.random.default_rng(7)
    operand = laid_out(rng, values(rng, (3, 3), dtype, "dyadic"), layout)
    expected, result = np.einsum(text, operand), contractc.einsum(text, operand)
    np.testing.assert_array_equal(result, expected)
    assert result.dtype == expected.dtype
    assert result.strides == expected.strides
    assert np.may_share_memory(result, operand) == np.may_share_memory(expected, operand)
    assert result.flags.writeable == expected.flags.writeable


@share(0.05)
@given(
    numpy_cases(),
    st.sampled_from(("float32", "float64", "complex64", "complex128", "int32", "int64")),
    st.data(),
)
def test_einsum_in_another_dtype_agrees_with_numpy(case: Case, dtype: str, data: st.DataObject) -> None:
    arrays = [np.asarray(x) for x in case.operands]
    small = all(
        x.size == 0 or x.dtype.kind not in "iu" or abs(x.astype(np.float64)).max() <= 8 for x in arrays
    )
    assume(small)  # casting a large integer to a narrow dtype is undefined for floats
    casting = data.draw(st.sampled_from(("safe", "same_kind", "unsafe")))
    expected, refusal = numpy_result(case, dtype=dtype, casting=casting)
    view = len(arrays) == 1 and set(case.inputs[0]) <= {*case.terms[0], Ellipsis}
    assume(not view)  # np.einsum ignores dtype= where the result is a view
    if refusal is not None:
        with pytest.raises(refusal):
            contractc.einsum(*case.arguments, dtype=dtype, casting=casting)
        return
    with np.errstate(invalid="ignore"):
        operands = [x.real.astype(dtype) if dtype[0] != "c" else x.astype(dtype) for x in arrays]
    result = contractc.einsum(*case.arguments, dtype=dtype, casting=casting)
    assert type(result) is type(expected)
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    assert_close(result, case, 0, operands, dtype)


@share(0.05)
@given(numpy_cases(), st.data())
def test_einsum_writes_into_out(case: Case, data: st.DataObject) -> None:
    expected, refusal = numpy_result(case)
    assume(refusal is None)
    arrays = [np.asarray(x) for x in case.operands]
    dtype = np.result_type(*arrays)
    exact = [x.astype(dtype) for x in arrays]
    same = [
        k
        for k, x in enumerate(arrays)
        if x.shape == expected.shape and x.dtype == dtype and x.flags.writeable
    ]
    same = [k for k in same if isinstance(case.operands[k], np.ndarray) and 0 not in arrays[k].strides]
    if same and data.draw(st.sampled_from([False, True])):
        out = case.operands[data.draw(st.sampled_from(same))]  # the result overwrites an operand
        assume(np.unique(_addresses(out)).size == out.size)
    else:
        layout = data.draw(st.sampled_from(OUT_LAYOUTS))
        out = laid_out(np.random.default_rng(0), np.ones(expected.shape, dtype), layout)
    result = contractc.einsum(*case.arguments, out=out)
    assert result is out
    assert_close(result, case, 0, exact, dtype.name)


@share(0.05)
@given(numpy_cases(), st.integers(0, 30), st.sampled_from(EDITS), st.integers(0, 5))
def test_einsum_refuses_what_numpy_refuses(case: Case, at: int, edit: str, stretch: int) -> None:
    text, operands = case.text, list(case.operands)
    if case.form == "interleaved":
        text = "ij,jk->ik"  # labels that are no letters have no text
    at %= len(text) + 1
    text = text[:at] + edit + text[at + (not edit) :]  # one character more, or one fewer
    which = stretch % len(operands)
    if stretch < 3 and np.ndim(operands[which]):
        operands[which] = np.concatenate([operands[which]] * 2)
    try:
        expected = np.einsum(text, *operands)
    except ValueError:
        with pytest.raises((contractc.EinsumError, contractc.OperandError)):
            contractc.einsum(text, *operands)
        return
    assume(text.count("->") <= 1)  # np.einsum takes 'i->->i' for 'i->i'
    result = contractc.einsum(text, *operands)
    assert (type(result), result.shape, result.dtype) == (type(expected), expected.shape, expected.dtype)


def _addresses(array: np.ndarray) -> np.ndarray:
    offsets = np.zeros(array.shape, np.int64)
    for axis, (extent, stride) in enumerate(zip(array.shape, array.strides, strict=True)):
        offsets = offsets + (np.arange(extent) * stride).reshape(
            [-1 if k == axis else 1 for k in range(array.ndim)]
        )
    return offsets


@share(0.24)
@given(numpy_cases(extended=True), st.sampled_from(OPTIMIZE), st.integers(0, 99), st.integers(0, 2**7 - 1))
def test_contract_agrees_with_the_reference(case: Case, optimize: Any, seed: int, conjugate: int) -> None:
    before = [np.array(x) for x in case.operands]
    dtype = np.result_type(*before)
    operands = [x.astype(dtype) for x in before]
    options = chosen(optimize, case, seed)
    if conjugate >= 2**6:
        options["conj"] = tuple(k for k in range(len(operands)) if conjugate >> k & 1)
        operands = [x.conj() if k in options["conj"] else x for k, x in enumerate(operands)]
    result = contractc.contract(*case.arguments, **options)
    results = result if len(case.terms) > 1 else (result,)
    assert isinstance(results, tuple) and len(results) == len(case.terms)
    for k, got in enumerate(results):
        assert isinstance(got, np.ndarray if got.shape else np.generic)
        assert got.dtype.newbyteorder("=") == dtype
        assert_close(got, case, k, operands, dtype.name)
    if len(results) == 1 and "conj" not in options:
        expected, refusal = numpy_result(case)
        if refusal is None:
            assert type(result) is type(expected)
            assert (result.shape, result.dtype.newbyteorder("=")) == (
                expected.shape,
                expected.dtype.newbyteorder("="),
            )
    for x, y in zip(before, case.operands, strict=True):
        np.testing.assert_array_equal(x, y, "an operand was changed")
    kept = [np.array(x) for x in results]
    again = contractc.contract(*case.arguments, **options)
    for x, y in zip(kept, again if len(kept) > 1 else (again,), strict=True):
        np.testing.assert_array_equal(x, y, "the second call differs from the first")


@share(0.05)
@given(
    expressions(extended=True),
    st.sampled_from(("float32", "float64", "complex128")),
    st.integers(0, 2**32 - 1),
)
def test_contract_strips_exponents(drawn: tuple[Case, list[tuple[int, ...]]], dtype: str, seed: int) -> None:
    case, shapes = drawn
    rng = np.random.default_rng(seed)
    operands = [values(rng, shape, dtype, "full") for shape in shapes]
    case = Case(case.inputs, (case.terms[0],), tuple(operands), case.form)
    mantissa, exponent = contractc.contract(*case.arguments, strip_exponent=True)
    assert type(exponent) is int
    assert mantissa.dtype == dtype
    assert_close(np.asarray(mantissa) * 2.0**exponent, case, 0, operands, dtype)
    far = 100 if dtype == "float32" else 800
    for power in (far, -far):
        moved = tuple(x * np.asarray(2.0**power, dtype) for x in operands)
        mantissa, exponent = contractc.contract(*replace(case, operands=moved).arguments, strip_exponent=True)
        back = 2.0 ** (exponent - power * len(operands)) if np.any(mantissa) else 1.0
        assert_close(np.asarray(mantissa) * back, case, 0, operands, dtype)


@share(0.05)
@given(
    expressions(extended=True),
    st.sampled_from(("max_plus", "min_plus", "max_times", "or_and", "log_sum_exp")),
    st.data(),
)
def test_contract_in_a_semiring_agrees_with_the_reference(
    drawn: tuple[Case, list[tuple[int, ...]]], semiring: str, data: st.DataObject
) -> None:
    case, shapes = drawn
    dtypes = {"or_and": "bool", "log_sum_exp": "float64"}
    dtype = dtypes.get(semiring) or data.draw(st.sampled_from(("int64", "float32", "float64")))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    arrays = [
        abs(drawn) if semiring == "max_times" else drawn
        for drawn in (values(rng, shape, dtype, "dyadic") for shape in shapes)
    ]
    case = Case(case.inputs, case.outputs, tuple(arrays), case.form)
    expected = reference.evaluate(case.inputs, case.terms, arrays, semiring)
    infinite = any(isinstance(v, float) and np.isinf(v) for answer in expected for v in answer.ravel())
    repeated = any(len(set(term)) < len(term) for term in case.terms)
    try:
        result = contractc.contract(*case.arguments, semiring=semiring)
    except contractc.UnsupportedError:
        assert dtype == "int64", "only integers lack infinities"
        assert repeated or any(0 in shape for shape in shapes), "no zero is needed here"
        return
    assert dtype != "int64" or not infinite
    for got, answer in zip(result if len(expected) > 1 else (result,), expected, strict=True):
        assert got.dtype == dtype
        if semiring == "log_sum_exp":
            np.testing.assert_allclose(got, answer.astype(dtype), rtol=1e-13, atol=1e-12)
        else:
            np.testing.assert_array_equal(got, answer.astype(dtype))


@share(0.05)
@given(numpy_cases(extended=True), st.floats(0.3, 1.1), st.sampled_from((None, False, "greedy")))
def test_contract_within_a_memory_limit_agrees_with_the_reference(
    case: Case, fraction: float, optimize: Any
) -> None:
    dtype = np.result_type(*map(np.asarray, case.operands))
    operands = [np.asarray(x).astype(dtype) for x in case.operands]
    case = replace(case, operands=tuple(operands))
    limit = int(contractc.plan(*case.arguments, optimize=optimize).peak * fraction)
    try:
        result = contractc.contract(*case.arguments, optimize=optimize, memory_limit=limit)
    except contractc.ResourceLimitError:
        assert fraction < 1
        return
    for k, got in enumerate(result if len(case.terms) > 1 else (result,)):
        assert_close(got, case, k, operands, dtype.name)


@share(0.04)
@given(
    expressions(extended=True, broadcasting=False),
    st.sampled_from(("float64", "int32", "complex64")),
    st.integers(0, 63),
    st.sampled_from((0, 1, 2, 3, 5)),
    st.integers(0, 2**32 - 1),
)
def test_compile_with_constants_and_dynamic_modes_agrees_with_the_reference(
    drawn: tuple[Case, list[tuple[int, ...]]], dtype: str, mask: int, extent: int, seed: int
) -> None:
    case, shapes = drawn
    rng = np.random.default_rng(seed)
    operands = [values(rng, shape, dtype, "dyadic") for shape in shapes]
    fixed = [k for k in range(len(operands)) if mask >> k & 1]
    terms, _, extents = reference.resolve(case.inputs, [], shapes)
    baked = {label for k in fixed for label in terms[k]}
    free: list[Any] = [
        label for label, n in extents.items() if n > 1 and label not in baked and not isinstance(label, tuple)
    ]
    form = "interleaved" if case.form == "interleaved" else "text"
    given = tuple(x if k in fixed else x.shape for k, x in enumerate(operands))
    arguments = replace(case, operands=given, form=form).arguments
    run = contractc.compile(*arguments, dtype=dtype, constants=fixed, dynamic=free[:1])
    for sizes in (extents, extents | dict.fromkeys(free[:1], extent)):
        fresh = [
            x if k in fixed else values(rng, tuple(sizes[label] for label in terms[k]), dtype, "dyadic")
            for k, x in enumerate(operands)
        ]
        result = run(*(x for k, x in enumerate(fresh) if k not in fixed))
        for k, got in enumerate(result if len(case.terms) > 1 else (result,)):
            assert got.dtype == dtype
            assert_close(got, case, k, fresh, dtype)


@needs_torch
@share(0.02)
@given(torch_cases(), st.sampled_from(("max_plus", "min_plus", "max_times", "or_and", "log_sum_exp")))
def test_contract_of_torch_tensors_in_a_semiring_agrees_with_the_reference(case: Case, semiring: str) -> None:
    torch = pytest.importorskip("torch")
    kind = torch.bool if semiring == "or_and" else torch.float64
    tensors = [x.resolve_conj().real if x.dtype.is_complex else x for x in case.operands]
    tensors = [x.to(kind).abs() if semiring == "max_times" else x.to(kind) for x in tensors]
    case = replace(case, operands=tuple(tensors))
    expected = reference.evaluate(case.inputs, case.terms, [as_exact(x, kind) for x in tensors], semiring)
    result = contractc.contract(*case.arguments, semiring=semiring)
    for got, answer in zip(result if len(expected) > 1 else (result,), expected, strict=True):
        assert got.dtype == kind
        np.testing.assert_allclose(
            as_exact(got, kind),
            answer.astype("bool" if kind == torch.bool else "float64"),
            rtol=1e-13,
            atol=1e-12,
        )


@needs_torch
@share(0.1)
@given(torch_cases(), st.sampled_from(OPTIMIZE), st.integers(0, 99), st.integers(0, 2**7 - 1))
def test_contract_of_torch_tensors_agrees_with_the_reference(
    case: Case, optimize: Any, seed: int, conjugate: int
) -> None:
    torch = pytest.importorskip("torch")
    dtype = torch_result_type(case.operands)
    assume(dtype != torch.complex32)  # a float16 tensor times a complex number: torch computes little with it
    name = str(dtype).removeprefix("torch.")
    operands = [as_exact(x, dtype) for x in case.operands]
    options = chosen(optimize, case, seed)
    if conjugate >= 2**6:
        options["conj"] = tuple(k for k in range(len(operands)) if conjugate >> k & 1)
        operands = [x.conj() if k in options["conj"] else x for k, x in enumerate(operands)]
    before = [x.clone() for x in case.operands]
    result = contractc.contract(*case.arguments, **options)
    results = result if len(case.terms) > 1 else (result,)
    assert isinstance(results, tuple) and len(results) == len(case.terms)
    for k, got in enumerate(results):
        assert isinstance(got, torch.Tensor)
        assert got.dtype == dtype
        assert_close(as_exact(got, dtype), case, k, operands, name)
    for x, y in zip(before, case.operands, strict=True):
        assert torch.equal(x, y), "an operand was changed"


@needs_torch
@share(0.02)
@given(torch_cases(extended=False))
def test_einsum_of_torch_tensors_agrees_with_the_reference(case: Case) -> None:
    torch = pytest.importorskip("torch")
    dtype = torch_result_type(case.operands)
    assume(dtype != torch.complex32)
    dotted = Ellipsis in case.terms[0]
    shapes = [tuple(x.shape) for x in case.operands]
    hidden = [len(s) - len(term) + 1 for s, term in zip(shapes, case.inputs, strict=True) if Ellipsis in term]
    if any(hidden) and not dotted:
        with pytest.raises(contractc.EinsumError):
            contractc.einsum(*case.arguments)
        return
    result = contractc.einsum(*case.arguments)
    assert isinstance(result, torch.Tensor) and result.dtype == dtype
    exact = [as_exact(x, dtype) for x in case.operands]
    assert_close(as_exact(result, dtype), case, 0, exact, str(dtype).removeprefix("torch."))


def torch_result_type(tensors: Sequence[Any]) -> Any:
    """Return torch's dtype for these tensors: those with axes decide, 0-d ones only raise the kind."""
    import torch

    def promoted(group: list[Any]) -> Any:
        return torch.empty(1, dtype=functools.reduce(torch.promote_types, (x.dtype for x in group)))

    with_axes, without = [x for x in tensors if x.dim()], [x for x in tensors if not x.dim()]
    if not (with_axes and without):
        return promoted(with_axes or without).dtype
    return torch.result_type(promoted(with_axes), promoted(without)[0])


def as_exact(tensor: Any, dtype: Any) -> np.ndarray:
    """Return a tensor's values in `dtype` as a NumPy array that holds them exactly."""
    import torch

    tensor = tensor.detach().to(dtype)
    if dtype == torch.bfloat16:
        tensor = tensor.to(torch.float64)
    return np.array(tensor.resolve_conj().resolve_neg().numpy())


def test_the_examples_are_as_many_as_asked_for() -> None:
    tests = [f for name, f in globals().items() if name.startswith("test_") and hasattr(f, "hypothesis")]
    drawn = sum(f._hypothesis_internal_use_settings.max_examples for f in tests)
    assert abs(drawn - fuzzing.examples()) <= len(tests)

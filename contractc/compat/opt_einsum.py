"""opt_einsum's interface: its functions, its units and its algorithm names, with contractc underneath.

    import contractc.compat.opt_einsum as oe

NumPy arrays and torch tensors are contracted by contractc. Arrays of any other library, and everything inside
`shared_intermediates()`, run through opt_einsum's own dispatch along the same path; `explain` tells which of
the two it is and why. What opt_einsum has (its parser, path functions, tables) is called, not copied.

Two things differ from opt_einsum. `optimize=True` and `None` mean contractc's own search, where opt_einsum
means "auto" (which still is opt_einsum's). A `memory_limit` that no pairwise path keeps is kept by looping
over slices, not by one n-ary einsum; on opt_einsum's dispatch it is that einsum.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from opt_einsum import (
    BranchBound,
    DynamicProgramming,
    RandomGreedy,
    backends,
    blas,
    get_symbol,
    helpers,
    path_random,
    paths,
    shared_intermediates,
)
from opt_einsum import contract as _contract
from opt_einsum import contract_expression as _contract_expression
from opt_einsum import contract_path as _contract_path
from opt_einsum.contract import ContractExpression as _ContractExpression
from opt_einsum.contract import PathInfo, parse_backend
from opt_einsum.parser import convert_interleaved_input, get_shape
from opt_einsum.sharing import currently_sharing

from contractc import api
from contractc.backends import backend_named
from contractc.compat.paths import compiled, search_path, text_and_path, unsearched, with_letters
from contractc.errors import EinsumError, OperandError, UnsupportedError
from contractc.executable import Executable
from contractc.machine import Target
from contractc.notation import numpy_refuses, parse
from contractc.operands import describe, device_of, is_torch, library_of
from contractc.options import frozen
from contractc.recent import MISS

__all__ = [
    "BranchBound",
    "ContractExpression",
    "DynamicProgramming",
    "PathInfo",
    "RandomGreedy",
    "blas",
    "contract",
    "contract_expression",
    "contract_path",
    "explain",
    "get_symbol",
    "helpers",
    "path_random",
    "paths",
    "register",
    "search_path",
    "shared_intermediates",
]

NAME = "contractc"
"""The name under which `register` offers contractc's search to opt_einsum; this module knows it without."""

MOST_SHAPES = 32
"""For how many combinations of shapes and dtypes an expression keeps compiled code; the oldest goes first."""

_EINSUM_DEFAULTS = {"dtype": None, "order": "K", "casting": "safe"}


def contract(
    subscripts: Any,
    *operands: Any,
    out: Any = None,
    use_blas: bool = True,
    optimize: Any = True,
    memory_limit: int | str | None = None,
    backend: str | None = "auto",
    **einsum_options: Any,
) -> Any:
    """Return the contraction of `operands`, as opt_einsum.contract does.

    Args:
        subscripts, operands: text and arrays, or opt_einsum's interleaved form.
        out: an array for the result, which is returned.
        use_blas: accepted; contractc decides for itself what runs as a matrix product.
        optimize: True or None for contractc's search, the name of an algorithm of opt_einsum, an optimizer
            object, a path, or False for left to right.
        memory_limit: elements of the largest intermediate (the result not counted); "max_input" for the
            largest operand or result; None or -1 for no limit.
        backend: the library to compute with, as in opt_einsum; "auto" for that of the operands.
        einsum_options: dtype, order and casting, as in np.einsum.

    Raises:
        ValueError: the expression, the operands or the path are wrong.
        KeyError: no algorithm has that name.

    >>> contract("ij,jk,kl->il", [[1.0, 2.0]], [[3.0], [4.0]], [[5.0]], optimize="greedy")
    array([[55.]])
    """
    found = _search(optimize)
    unknown = einsum_options.keys() - _EINSUM_DEFAULTS.keys()
    if unknown:
        raise TypeError(f"contract has no option {', '.join(sorted(unknown))}")
    text, arrays = _as_text(subscripts, operands)
    library, _ = _route(arrays, backend)
    if library is None:
        return _contract(
            text,
            *arrays,
            out=out,
            use_blas=use_blas,
            optimize=found,
            memory_limit=memory_limit,
            backend=backend,
            **einsum_options,
        )
    named = isinstance(found, _Search)
    if memory_limit in (None, -1) and (not named or found.function is search_path):
        text = _accepted(text, len(arrays))
        path = None if named else found
        result = api.contract(text, *arrays, optimize=path, out=out, **einsum_options)
        return result if hasattr(result, "dtype") else _object_array(result)
    shapes = tuple(tuple(map(int, get_shape(x))) for x in arrays)
    made = _prepared if isinstance(frozen(optimize), Hashable) else _prepared.__wrapped__
    expression = made(text, shapes, frozen(optimize), memory_limit, tuple(sorted(einsum_options.items())))
    return expression._contract(arrays, out=out, backend=library)


def contract_path(
    subscripts: Any,
    *operands: Any,
    use_blas: bool = True,
    optimize: Any = True,
    memory_limit: int | str | None = None,
    shapes: bool = False,
    einsum_call: bool = False,
) -> tuple[Any, Any]:
    """Return the path and opt_einsum's PathInfo about it, as opt_einsum.contract_path does.

    Args:
        subscripts, operands, use_blas, optimize, memory_limit: as in `contract`; `use_blas` decides about the
            column BLAS of the table.
        shapes: the operands are shapes, not arrays.
        einsum_call: return the operands and opt_einsum's list of contractions instead; JAX's einsum asks so.

    Returns:
        The path, positions in a list that shrinks, and the printable PathInfo: sizes in elements, flops by
        opt_einsum's count (a multiplication is 1, an addition is 1).

    >>> path, info = contract_path("ij,jk,kl->il", (2, 30), (30, 4), (4, 5), shapes=True)
    >>> path, info.opt_cost, info.largest_intermediate
    ([(0, 1), (0, 1)], Decimal('560'), Decimal('10'))
    """
    text, arrays = _as_text(subscripts, operands)
    found: tuple[Any, Any] = _contract_path(
        text,
        *arrays,
        use_blas=use_blas,
        optimize=_search(optimize),
        memory_limit=memory_limit,
        shapes=shapes,
        einsum_call=einsum_call,
    )
    return found


def contract_expression(
    subscripts: Any,
    *shapes: Any,
    constants: Collection[int] | None = None,
    use_blas: bool = True,
    optimize: Any = True,
    memory_limit: int | str | None = None,
    **einsum_options: Any,
) -> ContractExpression:
    """Return a reusable expression for operands of these `shapes`, as opt_einsum.contract_expression does.

    Args:
        subscripts, use_blas, optimize, memory_limit, einsum_options: as in `contract`.
        shapes: a shape for each operand, the array itself for a constant one.
        constants: numbers of the operands that are the same at every call; what depends on them only is
            computed once, at the first call with a library.

    Raises:
        ValueError: the expression, the shapes or the path are wrong, or `optimize` is False.
    """
    found = _search(optimize)
    text, given = _as_text(subscripts, shapes)
    if einsum_options and memory_limit not in (None, -1):
        raise UnsupportedError("memory_limit cannot be combined with dtype, order or casting")
    theirs = _contract_expression(
        text,
        *given,
        constants=constants,
        use_blas=use_blas,
        optimize=found,
        memory_limit=memory_limit,
        **einsum_options,
    )
    return ContractExpression(text, theirs, found)


class ContractExpression(_ContractExpression):  # type: ignore[misc]
    """opt_einsum's ContractExpression; NumPy arrays and torch tensors are contracted by contractc.

    Everything around the contraction is inherited: numbers of operands, constants, the conversion of NumPy
    arrays when another `backend` is asked for, and what str and repr say.
    """

    def __init__(self, text: str, theirs: Any, found: Any) -> None:
        super().__init__(text, theirs.contraction_list, theirs._constants_dict, **theirs.kwargs)
        named = isinstance(found, _Search)
        self._order: str = found.name if named else "the path given"
        self._limit: int | None = found.limit if named else None
        self._executables: dict[object, Executable] = {}
        self._latest: Callable[..., Any] | None = None

    def __call__(
        self, *arrays: Any, out: Any = None, backend: str | None = "auto", evaluate_constants: bool = False
    ) -> Any:
        """Return the result for `arrays`; `out` takes it, `backend` names the library to compute with."""
        run = self._latest
        if run is not None and out is None and backend == "auto" and len(arrays) == self.num_args:
            result = MISS if evaluate_constants or currently_sharing() else run(*arrays)
            if result is not MISS:
                return result
        if not arrays and self._constants_dict:
            backend = parse_backend([*self._constants_dict.values()], backend)
        return super().__call__(*arrays, out=out, backend=backend, evaluate_constants=evaluate_constants)

    def _contract(
        self, arrays: Any, out: Any = None, backend: str | None = "auto", evaluate_constants: bool = False
    ) -> Any:
        """Return the contraction of all operands, evaluated constants included; opt_einsum calls this."""
        if evaluate_constants:
            done = super()._contract(arrays, backend=backend, evaluate_constants=True)
            return done if isinstance(done, tuple) else ([done], [])
        if not self.contraction_list:
            return _copied(arrays[0]) if out is None else _written(arrays[0], out)
        if _route(arrays, backend)[0] is None:
            return super()._contract(arrays, out=out, backend=backend)
        if self.kwargs:
            text, path = text_and_path(self.contraction_list, len(arrays))
            return api.contract(text, *arrays, optimize=path, out=out, **self.kwargs)
        executable, fixed = self._executable(arrays, backend)
        result = executable(*(x for k, x in enumerate(arrays) if k not in fixed))
        if not hasattr(result, "dtype"):
            result = _object_array(result)
        elif len(arrays) - len(fixed) == self.num_args:
            self._latest = executable.run
        return result if out is None else _written(result, out)

    def _executable(self, arrays: Sequence[Any], backend: str | None) -> tuple[Executable, set[int]]:
        """Return the code for operands like these, and which of them it holds as constants."""
        library = library_of(arrays)
        module = backend_named(library)
        like = next((x for x in arrays if hasattr(x, "dtype")), None)
        arrays = [module.as_array(x, k, like) for k, x in enumerate(arrays)]
        held = self._evaluated_constants.get(backend, [None] * len(arrays))
        fixed = {k for k, x in enumerate(held) if x is not None and not getattr(x, "requires_grad", False)}
        key = (backend, library, device_of(like), *map(describe, arrays))
        found = self._executables.get(key)
        if found is None:
            text, path = text_and_path(self.contraction_list, len(arrays))
            target = Target(library, device_of(like))
            found = compiled(text, path, self._order, self._limit, arrays, sorted(fixed), target)
            self._executables[key] = found
            while len(self._executables) > MOST_SHAPES:
                self._executables.pop(next(iter(self._executables)))
        return found, fixed

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled and copied: everything but compiled code."""
        return {**self.__dict__, "_executables": {}, "_latest": None}


def explain(
    subscripts: Any,
    *operands: Any,
    use_blas: bool = True,
    optimize: Any = True,
    memory_limit: int | str | None = None,
    backend: str | None = "auto",
) -> str:
    """Return which route a contraction takes and why, where its order is from, and what its steps run as.

    Args:
        subscripts: as in `contract`, or an expression made by `contract_expression`, whose options hold.
        operands: the arrays of the call.
        use_blas, optimize, memory_limit, backend: as in `contract`.

    >>> print(explain("ij,jk->ik", np.ones((2, 3)), np.ones((3, 4))))
    contractc, because the operands are NumPy arrays
    runs on numpy; order found by contractc
      %2: gemm: x0.dot(x1)
    """
    if isinstance(subscripts, ContractExpression):
        text, arrays = "", list(operands)
    else:
        text, arrays = _as_text(subscripts, operands)
    library, why = _route(arrays, backend)
    name = parse_backend(arrays, backend)
    if isinstance(subscripts, ContractExpression):
        expression = subscripts
    else:
        shapes = [tuple(get_shape(x)) for x in arrays]
        path = unsearched(len(arrays), library) if optimize is False else optimize
        expression = contract_expression(
            text, *shapes, use_blas=use_blas, optimize=path, memory_limit=memory_limit
        )
        if optimize is False:
            expression._order = "left to right" if library else "no search"
    if library is None:
        steps = [f"  {c[2]}: {c[-1] or 'einsum'}" for c in expression.contraction_list]
        head = f"opt_einsum's dispatch to {name}, because {why}; order found by {expression._order}"
        return "\n".join([head, *steps])
    if expression._constants_dict:
        held = iter(arrays)
        arrays = [next(held) if x is None else x for x in expression._get_evaluated_constants(name)]
    if not expression.contraction_list:
        return f"nothing left to run on {library}: all operands are constant"
    executable, _ = expression._executable(arrays, name)
    return f"contractc, because {why}\n{executable}"


def register(name: str = NAME) -> None:
    """Make contractc's search `optimize=name` in opt_einsum, and so in what builds on it (quimb).

    Calling it again changes nothing.

    Raises:
        KeyError: the name belongs to another algorithm.
    """
    try:
        known = paths.get_path_fn(name)
    except KeyError:
        known = None
    if known is not search_path:
        paths.register_path_fn(name, search_path)


class _Search(paths.PathOptimizer):  # type: ignore[misc]
    """A path function under a name, as an optimizer object; `limit` is the one it was last asked to keep."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.function = function
        self.limit: int | None = None

    def __call__(self, inputs: Any, output: Any, size_dict: Any, memory_limit: Any = None) -> Any:
        self.limit = memory_limit
        return self.function(inputs, output, size_dict, memory_limit)


def _search(optimize: Any) -> Any:
    """Return `optimize` as what opt_einsum takes: a named path function, a path, or False.

    Raises:
        KeyError: no algorithm has that name.
    """
    if optimize is True or optimize is None or optimize == NAME:
        return _Search(NAME, search_path)
    if isinstance(optimize, str):
        return _Search(f"opt_einsum's {optimize}", paths.get_path_fn(optimize))
    if callable(optimize):
        return _Search(type(optimize).__name__, optimize)
    return optimize


def _as_text(subscripts: Any, operands: Sequence[Any]) -> tuple[str, list[Any]]:
    """Return the expression as text, and the operands; opt_einsum reads the interleaved form.

    Raises:
        TypeError: the labels are no sequences of hashable labels that can be sorted.
    """
    if isinstance(subscripts, str):
        return subscripts, list(operands)
    text, arrays = convert_interleaved_input((subscripts, *operands))
    return text, list(arrays)


def _accepted(text: str, operands: int) -> str:
    """Return `text` for contractc.

    Raises:
        EinsumError: only contractc would accept it: several outputs, repeated output modes.
        OperandError: it has another number of terms than there are operands.
    """
    written, terms = _read(text) if len(text) < 4096 else _read.__wrapped__(text)
    if terms != operands:
        verb = "operand was" if operands == 1 else "operands were"
        raise OperandError(f"the expression has {terms} term{'s' * (terms != 1)} but {operands} {verb} given")
    return written


@lru_cache(maxsize=1024)
def _read(text: str) -> tuple[str, int]:
    written = with_letters(text)
    expression = parse(written)
    reason = numpy_refuses(expression)
    if reason is not None:
        raise EinsumError(reason)
    return written, len(expression.inputs)


def _route(arrays: Sequence[Any], backend: str | None) -> tuple[str | None, str]:
    """Return the library with which contractc runs itself, or None for opt_einsum's dispatch; and why."""
    if currently_sharing():
        return None, "intermediates are shared, which is opt_einsum's work"
    torch = objects = True
    for k, x in enumerate(arrays):
        if is_torch(x):
            objects = False
        elif isinstance(x, bool | int | float | complex):
            continue
        elif isinstance(x, list | tuple | np.generic) or _is_plain_numpy(x):
            torch = False
            objects = objects and getattr(x, "dtype", None) == np.dtype(object)
        else:
            return _other_route(x, k, parse_backend(arrays, backend))
    name = "torch" if torch and any(map(is_torch, arrays)) else "numpy"
    if backend not in (None, "auto", name) and not (backend == "object" and objects):
        return None, f"backend={backend!r} was asked for"
    return name, "the operands are torch tensors" if name == "torch" else "the operands are NumPy arrays"


def _is_plain_numpy(x: Any) -> bool:
    """Return whether `x` is a NumPy array, and no subclass that reinterprets NumPy's functions (units)."""
    return isinstance(x, np.ndarray) and type(x).__array_function__ is np.ndarray.__array_function__


def _other_route(x: Any, number: int, backend: str) -> tuple[str | None, str]:
    """Return the route for operands of which `x` is neither NumPy's nor torch's."""
    kind = f"operand {number} is of type {type(x).__module__}.{type(x).__name__}"
    if hasattr(x, "__array_namespace__") and not backends.has_einsum(backend):
        return "array_api", f"{kind}, for which opt_einsum knows no einsum"
    return None, kind


@lru_cache(maxsize=128)
def _prepared(
    text: str,
    shapes: tuple[tuple[int, ...], ...],
    optimize: Any,
    memory_limit: int | str | None,
    einsum_options: tuple[tuple[str, Any], ...],
) -> ContractExpression:
    return contract_expression(
        text, *shapes, optimize=optimize, memory_limit=memory_limit, **dict(einsum_options)
    )


def _object_array(x: Any) -> np.ndarray:
    """Return a Python object, the sum of Python objects, as the array without axes that opt_einsum gives."""
    array = np.empty((), object)
    array[()] = x
    return array


def _copied(x: Any) -> Any:
    """Return a copy of an array of any library: what is kept for the next call is not given away."""
    copy = getattr(x, "clone", None) or getattr(x, "copy", None)
    return x if copy is None else copy()


def _written(result: Any, out: Any) -> Any:
    """Return `out` holding `result`."""
    if tuple(out.shape) != tuple(result.shape):
        raise OperandError(f"out has shape {tuple(out.shape)}, the result {tuple(result.shape)}")
    out[...] = result
    return out

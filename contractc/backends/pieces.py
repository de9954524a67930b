"""Steps taken in pieces of a common mode, on NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from contractc.backends import Compiled
from contractc.backends.sliced import borrowed_results
from contractc.dtypes import to_numpy
from contractc.programs import Fused, Program, in_small
from contractc.providers.memory import fresh
from contractc.recent import MISS


def numpy_pieces(step: Fused, compile_: Callable[[Program], Compiled]) -> Callable[..., Any]:
    """Return the function of arrays that computes the results of `step` piece by piece.

    Results with the mode get their pieces side by side, others are summed over it, one piece after the other. The mode
    may be dynamic: then its extent is that of the arrays.
    """
    (mode,), piece = step.modes, step.piece
    body = in_small(step.body, mode, piece)
    run = compile_(replace(body, dynamic=())).run
    rest = compile_(replace(body, dynamic=(mode,))).run  # what is left behind the last whole piece
    places = [v.modes.index(mode) if mode in v.modes else None for v in body.inputs]
    source, axis = next((k, at) for k, at in enumerate(places) if at is not None)
    borrowed = borrowed_results(body)
    outs = [
        (
            v.modes.index(mode) if mode in v.modes else None,
            tuple(body.extents[m] for m in v.modes),
            to_numpy(v.dtype),
            v.number in borrowed,
        )
        for v in step.outs
    ]
    single = len(outs) == 1

    def run_pieces(*arrays: Any) -> Any:
        extent = arrays[source].shape[axis]
        whole: list[Any] = [
            None if at is None else fresh((*shape[:at], extent, *shape[at + 1 :]), dtype)
            for at, shape, dtype, _ in outs
        ]
        for start in range(0, max(1, extent), piece):
            stop = min(start + piece, extent)
            some = slice(start, stop)
            given = []
            for x, at in zip(arrays, places, strict=True):
                if at is None:
                    given.append(np.asarray(x))
                elif at == 0:
                    given.append(x[some])
                else:
                    given.append(np.ascontiguousarray(x[(slice(None),) * at + (some,)]))
            found = run(*given) if stop - start == piece else rest(*given)
            assert found is not MISS, f"a piece refuses its arrays\n{body}"
            for k, part in enumerate((found,) if single else found):
                at, _, dtype, view = outs[k]
                if at is not None:
                    whole[k][(slice(None),) * at + (some,)] = part
                elif start:
                    np.add(whole[k], part, out=whole[k])
                else:
                    whole[k] = np.array(part, dtype) if view or type(part) is not np.ndarray else part
        return whole[0] if single else tuple(whole)

    return run_pieces

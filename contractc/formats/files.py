"""Factorized operands in safetensors files: the factors as arrays, the layout as JSON in the metadata."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np

from contractc.backends import backend_named
from contractc.dtypes import to_numpy
from contractc.errors import OperandError
from contractc.evaluation import Array
from contractc.formats.factorized import Factorized
from contractc.operands import Layout, dtype_name, is_torch
from contractc.tensorfiles import load as load_arrays
from contractc.tensorfiles import save as save_arrays

LAYOUT = "contractc.layout"
"""The metadata entry that holds the layout."""


def save(path: str | os.PathLike[str], operand: Factorized) -> None:
    """Write the factors of `operand` (`factor.0`, `factor.1`, ...) and its layout to a safetensors file.

    Raises:
        OperandError: it is not held as factors.
    """
    if not isinstance(operand, Factorized):
        raise OperandError(f"save writes operands held as factors, not a {type(operand).__name__}")
    arrays = {f"factor.{k}": to_host(x) for k, x in enumerate(operand.factors)}
    save_arrays(path, arrays, {LAYOUT: operand.layout.to_json()})


def load(path: str | os.PathLike[str], *, library: str = "numpy") -> Factorized:
    """Return the operand in a file that `save` wrote.

    Args:
        library: "numpy" or "torch", what the factors are to be.

    Raises:
        ValueError: the file is damaged, holds no operand, or its factors do not fit the layout.
    """
    arrays, notes = load_arrays(path)
    if LAYOUT not in notes:
        raise ValueError(f"{os.fspath(path)} holds arrays, but no factorized operand")
    layout = Layout.from_json(notes[LAYOUT])
    names = [f"factor.{k}" for k in range(len(layout.terms))]
    if set(arrays) != set(names):
        raise ValueError(f"{os.fspath(path)} has arrays {sorted(arrays)}, its layout needs {names}")
    factors = [arrays[name] for name in names]
    if library not in ("numpy", "torch"):
        raise OperandError(f"library={library!r:.20} is neither 'numpy' nor 'torch'")
    made = Factorized(layout, tuple(factors if library == "numpy" else [to_torch(x) for x in factors]))
    faults = made.faults()
    if faults:
        raise ValueError(f"{os.fspath(path)}: {'; '.join(faults)}")
    return made


def to_host(x: Any) -> Array:
    """Return an array of any library as a NumPy array; bfloat16 needs the package ml_dtypes."""
    if not is_torch(x):
        return np.asarray(x)
    x = x.detach().cpu().resolve_conj().resolve_neg()
    if dtype_name(x) == "bfloat16":
        narrow: Array = x.contiguous().view(sys.modules["torch"].int16).numpy().view(to_numpy("bfloat16"))
        return narrow
    array: Array = x.numpy()
    return array


def to_torch(x: Array) -> Any:
    """Return a NumPy array as a torch tensor on the CPU."""
    backend_named("torch")
    torch = sys.modules["torch"]
    if x.dtype.name == "bfloat16":
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x)

"""The machine that programs are priced for: the one measured here, if it was, else the defaults."""

from __future__ import annotations

import platform
from dataclasses import replace
from functools import cache

import numpy as np

from contractc.machine import DEFAULT_MACHINE, Machine, processor
from contractc.serial import digest
from contractc.store import open_store


@cache
def this_machine() -> Machine:
    """Return the machine kept in the store by `keep`, or `DEFAULT_MACHINE`; read once in a process."""
    store = open_store()
    text = None if store is None else store.read("machine", key())
    if text is None:
        return DEFAULT_MACHINE
    try:
        return Machine.from_json(text.decode())
    except ValueError:
        return DEFAULT_MACHINE


def keep(machine: Machine) -> bool:
    """Store `machine` as this one for later processes, and return whether that went well.

    Libraries that were not measured keep their default times of products.
    """
    seen = {(table.provider, table.dtype) for table in machine.products}
    rest = tuple(t for t in DEFAULT_MACHINE.products if (t.provider, t.dtype) not in seen)
    whole = replace(machine, products=(*machine.products, *rest))
    store = open_store()
    return (
        store is not None and not whole.faults() and store.write("machine", key(), whole.to_json().encode())
    )


def key() -> str:
    """Return the digest of what a measurement is for: processor, system, NumPy, and so its BLAS."""
    return digest("\n".join((platform.machine(), platform.system(), processor(), np.__version__)))

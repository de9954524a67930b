"""LLVM text -> machine code of this process, through llvmlite (which comes with numba)."""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from threading import RLock
from typing import Any
from weakref import WeakValueDictionary

GENERATOR = 1
"""Raised when the same text is compiled in another way, so that what is in the store is not taken."""


RESULT = ctypes.c_int64
"""What a function returns that returns something."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Native:
    """A compiled function, called with as many ints as `arguments`; its machine code lives as long as this does.

    `code` is the object file that it came from, and `function` its name there.
    """

    function: str
    arguments: int
    run: Callable[..., Any] = field(repr=False)
    code: bytes = field(repr=False)
    engine: Any = field(repr=False)


_compiled: WeakValueDictionary[str, Native] = WeakValueDictionary()
"""Functions in use, by the digest of their text: equal steps of several executables share one."""

_lock = RLock()
"""Held while something is compiled, and while the process forks: a child would wait for a thread that it has not."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def loaded() -> bool:
    """Return whether llvmlite is loaded already, so that using it costs no import."""
    return "llvmlite.binding" in sys.modules


@lru_cache(maxsize=1)
def available() -> bool:
    """Return whether llvmlite is there to be imported; it is not imported to find out."""
    try:
        return loaded() or find_spec("llvmlite") is not None
    except ImportError:  # a finder of modules that forbids it
        return False


@lru_cache(maxsize=1)
def installed() -> bool:
    """Return whether llvmlite can be imported and makes code for this machine."""
    try:
        import llvmlite.binding
    except ImportError:
        return False
    return bool(llvmlite.binding.llvm_version_info[0] >= 15)


@lru_cache(maxsize=1)
def vector_bytes() -> int:
    """Return the bytes of the widest vectors this processor computes with."""
    import llvmlite.binding as llvm

    return widest({name for name, there in llvm.get_host_cpu_features().items() if there})


def widest(features: Set[str]) -> int:
    """Return the bytes of the widest vectors that loops use on a processor with these features."""
    if features >= {"avx512f", "avx512dq", "avx512vl"}:
        return 64
    return 32 if features >= {"avx2", "fma"} else 16


def native(text: str, function: str) -> Native:
    """Return the function called `function` in the LLVM module `text`, compiled for this processor.

    Its arguments are addresses and 64-bit integers, all given as ints. The interpreter lock is released while
    it runs.
    """
    digest = hashlib.sha256(_uncommented(text).encode()).hexdigest()
    with _lock:
        found = _compiled.get(digest)
        if found is None:
            found = _compiled[digest] = _built(text, function)
        return found


def _uncommented(text: str) -> str:
    """Return `text` without its comments, which name modes by numbers: like steps of a program share their code."""
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith(";"))


def called(
    address: int, function: str, arguments: int, code: bytes, engine: Any, result: Any = None
) -> Native:
    """Return what calls the machine code at `address`, which `engine` keeps there; `result` is a type of ctypes."""
    prototype = ctypes.CFUNCTYPE(result, *[ctypes.c_void_p] * arguments)  # twice as fast as c_int64
    return Native(function, arguments, prototype(address), code, engine)


def _built(text: str, function: str) -> Native:
    import llvmlite.binding as llvm

    machine = _machine()
    code = _machine_code(text, machine)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    count = text[text.index(f"@{function}(") :].partition(") #0")[0].count("%")
    result = RESULT if f"define i64 @{function}(" in text else None
    return called(engine.get_function_address(function), function, count, code, engine, result)


def _machine_code(text: str, machine: Any) -> bytes:
    """Return the object file of the module `text`: from the store, if this processor had it compiled before."""
    import llvmlite.binding as llvm

    from contractc.store import open_store

    processor = f"{machine.triple} {llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"
    made_by = f"{GENERATOR} {llvm.llvm_version_info} {processor}"
    key = hashlib.sha256(f"{made_by}\n{_uncommented(text)}".encode()).hexdigest()
    store = open_store()
    found = None if store is None else store.read("loops", key)
    if found is None:
        found = _compile(text, machine)
        if store is not None:
            store.write("loops", key, found)
    return found


def _compile(text: str, machine: Any) -> bytes:
    import llvmlite.binding as llvm

    module = llvm.parse_assembly(text)
    module.verify()
    tuning = llvm.create_pipeline_tuning_options(speed_level=2)
    tuning.loop_vectorization = False
    tuning.slp_vectorization = False
    builder = llvm.create_pass_builder(machine, tuning)
    builder.getModulePassManager().run(module, builder)
    return bytes(machine.emit_object(module))


def _machine() -> Any:
    """Return what compiles for this processor."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=2
    )


def assembly(text: str) -> str:
    """Return the assembly of the module `text` for this processor: to look at."""
    import llvmlite.binding as llvm

    machine = _machine()
    module = llvm.parse_assembly(text)
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
    builder.getModulePassManager().run(module, builder)
    return str(machine.emit_assembly(module))

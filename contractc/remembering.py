"""Plans that took long to find are kept in the store, so that the next process has them at once."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import is_dataclass, replace
from importlib.util import find_spec
from typing import Any

from contractc.machine import DEFAULT_MACHINE, Target
from contractc.network import TensorNetwork
from contractc.plans import Plan
from contractc.providers import loops, providers
from contractc.search import SEARCHES, search
from contractc.search.factored import CPU
from contractc.serial import FORMAT, encode, sources_digest
from contractc.store import open_store

LEAST_TENSORS = 16
"""Networks with fewer tensors are searched anew every time: that is sooner done than a look at the disk."""

LEAST_FACTORED = 4
"""The same where an operand is held as factors: each choice is priced by the steps that would run, which takes 2 to
100 ms for two factors, 0.2 to 3 s for more, and for the kernels of a GPU long in any case."""

WORTH_KEEPING = 0.02
"""Seconds a search has to take for its plan to be kept; reading the plan of 200 tensors takes 0.005."""

SEARCHER = ("search/*.py", "cost.py", "machine.py", "plans.py", "slices.py")
"""The modules that decide what plan is found."""

PRICER = (
    "lower/*.py",
    "backends/steps/*.py",
    "backends/triton/*.py",
    "providers/*.py",
    "providers/loops/*.py",
)
"""The modules that decide beside these what becomes of an operand held as factors."""

UNFINISHED = ("interrupted", "cut short", "no time for more")
"""How the words for a search end that was not let finish: its plan is not kept."""


def remembered(
    network: TensorNetwork,
    optimize: Any = None,
    memory_limit: int | None = None,
    started: float | None = None,
    target: Target = CPU,
) -> Plan:
    """Return what `search` returns, from the store if it has been found before.

    A plan read from the store is checked like any other that comes from outside, and used only if it is for
    this very network. It was found by the same source of the search, for the same model of the machine.
    """
    store = open_store() if _takes_long(network, target) and _has_a_key(optimize) else None
    if store is None:
        return search(network, optimize, memory_limit, started, target)
    key = _key(network, optimize, memory_limit, target)
    stored = _read(store.read("plan", key), network)
    if stored is not None:
        return stored
    start = time.perf_counter()
    plan = search(network, optimize, memory_limit, started, target)
    whole = not plan.search.endswith(UNFINISHED)
    if whole and time.perf_counter() - start >= WORTH_KEEPING:
        store.write("plan", key, plan.to_json().encode())
    return plan


def _takes_long(network: TensorNetwork, target: Target) -> bool:
    """Return whether a search is expected to take longer than a look at the disk."""
    if not network.groups:
        return len(network.tensors) >= LEAST_TENSORS
    return len(network.tensors) >= LEAST_FACTORED or target.device.startswith("cuda")


def _has_a_key(optimize: Any) -> bool:
    """Return whether `optimize` names a search of ours: a path needs none, another library's may change."""
    if isinstance(optimize, str):
        return optimize in SEARCHES
    return optimize is None or optimize is True or (is_dataclass(optimize) and not isinstance(optimize, type))


def _key(network: TensorNetwork, optimize: Any, memory_limit: int | None, target: Target = CPU) -> str:
    """Return the digest of all that the plan depends on; labels are not part of it, the target where it matters is."""
    noun = encode(replace(network, labels=()))
    asked = "auto" if optimize is None or optimize is True else encode(optimize)
    found = [FORMAT, sources_digest(*SEARCHER), encode(DEFAULT_MACHINE), asked, memory_limit, noun]
    if network.groups:
        found += [str(target), sources_digest(*PRICER), *_prices_depend_on(target)]
    text = json.dumps(found)
    return hashlib.sha256(text.encode()).hexdigest()


def _prices_depend_on(target: Target) -> list[Any]:
    """Return what decides beside the source what steps are predicted to take."""
    if target.device.startswith("cuda"):
        from contractc.backends.triton.gpus import gpu_model  # which loads torch

        return [encode(gpu_model(target.device))]
    compiled = find_spec("llvmlite") is not None  # which is loaded to compile, not to look for a plan
    return [providers(), loops.vector_bytes() if compiled else 0]


def _read(data: bytes | None, network: TensorNetwork) -> Plan | None:
    if data is None:
        return None
    try:
        plan = Plan.from_json(data.decode())
    except ValueError:
        return None
    return replace(plan, network=network) if plan.network == network else None

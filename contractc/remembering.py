"""Plans that took long to find are kept in the store, so that the next process has them at once."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import is_dataclass, replace
from typing import Any

from contractc.machine import DEFAULT_MACHINE, Target
from contractc.network import TensorNetwork
from contractc.plans import Plan
from contractc.search import SEARCHES, search
from contractc.search.factored import CPU
from contractc.serial import FORMAT, encode, sources_digest
from contractc.store import open_store

LEAST_TENSORS = 16
"""Networks with fewer tensors are searched anew every time: that is sooner done than a look at the disk.

Not so with operands held as factors on a GPU, where each choice is priced by the kernels that would run: 0.1 to 3 s.
"""

WORTH_KEEPING = 0.02
"""Seconds a search has to take for its plan to be kept; reading the plan of 200 tensors takes 0.005."""

SEARCHER = ("search/*.py", "cost.py", "machine.py", "plans.py", "slices.py")
"""The modules that decide what plan is found."""

PRICER = ("lower/*.py", "backends/triton/*.py")
"""The modules that decide beside these what an operand held as factors is worth on a GPU."""

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
    long = len(network.tensors) >= LEAST_TENSORS or _by_kernels(network, target)
    store = open_store() if long and _has_a_key(optimize) else None
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


def _by_kernels(network: TensorNetwork, target: Target) -> bool:
    """Return whether choices are priced for a GPU."""
    return bool(network.groups) and target.device.startswith("cuda")


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
    found.append(str(target) if network.groups else "")
    if _by_kernels(network, target):
        from contractc.backends.triton.gpus import gpu_model  # which loads torch

        found += [sources_digest(*PRICER), encode(gpu_model(target.device))]
    text = json.dumps(found)
    return hashlib.sha256(text.encode()).hexdigest()


def _read(data: bytes | None, network: TensorNetwork) -> Plan | None:
    if data is None:
        return None
    try:
        plan = Plan.from_json(data.decode())
    except ValueError:
        return None
    return replace(plan, network=network) if plan.network == network else None

"""Three programs of other projects, unmodified, with and without contractc plugged in: total seconds beside their own.

    make bench-others        (or: OMP_NUM_THREADS=1 python benchmarks/others.py [quimb|tensorly-parafac|...])

Each program is run as its project ships it, and with contractc in the place where the project looks up its einsum; the
runs alternate in one process, so that both see the same machine. The first run of each is counted apart: it plans and
compiles. Both have to give the same result. Results are appended to benchmarks/results/others.jsonl.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

import contractc
from contractc.machine import processor

RESULTS = Path(__file__).resolve().parent / "results" / "others.jsonl"
ROUNDS = 7


class Program(NamedTuple):
    """A program: what it is, the project, how to run it, the ways to run it by name, and how close results are."""

    what: str
    project: str
    run: Callable[[], Any]
    ways: Mapping[str, Callable[[], Any]]
    tolerance: float


# How contractc is plugged in: one hook a project.


@contextmanager
def replaced(*places: tuple[Any, str], by: Any) -> Iterator[None]:
    """Have `by` stand in each (module, name) for as long as this lasts."""
    before = [getattr(module, name) for module, name in places]
    for module, name in places:
        setattr(module, name, by)
    try:
        yield
    finally:
        for (module, name), thing in zip(places, before, strict=True):
            setattr(module, name, thing)


@lru_cache(maxsize=4096)
def as_text(inputs: tuple[tuple[Hashable, ...], ...], output: tuple[Hashable, ...]) -> str:
    """Return an expression over any labels as text, so that contractc finds its code by one lookup."""
    labels = {x: chr(0x4E00 + k) for k, x in enumerate(dict.fromkeys(x for term in inputs for x in term))}
    terms = ["".join(labels[x] for x in term) for term in inputs]
    return f"{','.join(terms)}->{''.join(labels[x] for x in output)}"


def array_contract(
    arrays: Sequence[Any], inputs: Sequence[Sequence[Hashable]], output: Sequence[Hashable] = (), **_: Any
) -> Any:
    """Stand for quimb's function of this name: order and kernels are contractc's own."""
    return contractc.contract(as_text(tuple(map(tuple, inputs)), tuple(output)), *arrays)


def array_contract_expression(
    inputs: Sequence[Sequence[Hashable]],
    output: Sequence[Hashable] = (),
    constants: Mapping[int, Any] | None = None,
    **_: Any,
) -> Callable[..., Any]:
    """Stand for quimb's function of this name: DMRG asks for one at every site, with tensors that stay for a while.

    The code is looked up by expression and shapes; compiling it for each set of constants would not pay.
    """
    fixed = dict(constants or {})
    text = as_text(tuple(map(tuple, inputs)), tuple(output))
    free = [k for k in range(len(inputs)) if k not in fixed]
    held = [fixed.get(k) for k in range(len(inputs))]

    def call(*arrays: Any, backend: Any = None) -> Any:
        operands = list(held)
        for k, x in zip(free, arrays, strict=True):
            operands[k] = x
        return contractc.contract(text, *operands)

    return call


@contextmanager
def in_quimb() -> Iterator[None]:
    """Plug contractc into quimb: where its tensors look up the contraction of arrays."""
    from quimb.tensor import tensor_core

    with (
        replaced((tensor_core, "array_contract"), by=array_contract),
        replaced((tensor_core, "array_contract_expression"), by=array_contract_expression),
    ):
        yield


@contextmanager
def in_tensorly(einsum: Callable[..., Any] | None) -> Iterator[None]:
    """Have TensorLy compute by einsum, and einsum by this function; with None as it ships."""
    import tensorly
    from tensorly import plugins, tenalg

    if einsum is None:
        yield
        return
    tenalg.set_backend("einsum")
    if einsum is by_opt_einsum:
        plugins.use_opt_einsum()
    else:
        plugins.PREVIOUS_EINSUM = plugins.PREVIOUS_EINSUM or tensorly.backend.current_backend().einsum
        tensorly.backend.BackendManager.register_backend_method("einsum", einsum)
    try:
        yield
    finally:
        plugins.use_default_einsum()
        tenalg.set_backend("core")


def by_opt_einsum() -> None:
    """Stand for TensorLy's own plugin, which contracts by opt_einsum."""


@contextmanager
def in_pyscf() -> Iterator[None]:
    """Plug contractc into PySCF: `lib.einsum` is where its coupled-cluster code looks."""
    from pyscf import lib

    with replaced((lib, "einsum"), (lib.numpy_helper, "einsum"), by=contractc.einsum):
        yield


@contextmanager
def as_it_is() -> Iterator[None]:
    """Change nothing."""
    yield


# The programs.


def quimb_dmrg() -> Program:
    """Return a sweep of two-site DMRG of the Heisenberg chain; the result is its energy."""
    import quimb.tensor as qtn

    chain = qtn.MPO_ham_heis(32)

    def run() -> float:
        state = qtn.DMRG2(chain, bond_dims=[16, 32, 48], cutoffs=1e-10, p0=qtn.MPS_rand_state(32, 8, seed=1))
        state.solve(tol=1e-9, max_sweeps=3, verbosity=0)
        return float(state.energy)

    what = "DMRG2 of the Heisenberg chain, 32 sites, bonds up to 48, 3 sweeps"
    return Program(what, "quimb", run, {"as it is": as_it_is, "contractc": in_quimb}, 1e-7)


def _tensorly(what: str, decompose: Callable[[Any], Any], rebuilt: Callable[[Any], Any], x: Any) -> Program:
    ways = {
        "as it is": lambda: in_tensorly(None),
        "its opt_einsum": lambda: in_tensorly(by_opt_einsum),
        "contractc": lambda: in_tensorly(contractc.einsum),
    }
    return Program(what, "tensorly", lambda: rebuilt(decompose(x)), ways, 1e-6)


def tensorly_parafac() -> Program:
    """Return a CP decomposition by alternating least squares; the result is the rebuilt tensor."""
    import tensorly
    from tensorly.decomposition import parafac

    x = tensorly.tensor(np.random.default_rng(0).normal(size=(60, 70, 80)))
    what = "parafac of 60 x 70 x 80, rank 16, 25 iterations"
    return _tensorly(
        what,
        lambda x: parafac(x, rank=16, n_iter_max=25, init="random", random_state=0, tol=0),
        tensorly.cp_to_tensor,
        x,
    )


def tensorly_tucker() -> Program:
    """Return a Tucker decomposition by orthogonal iterations; the result is the rebuilt tensor."""
    import tensorly
    from tensorly.decomposition import tucker

    x = tensorly.tensor(np.random.default_rng(0).normal(size=(40, 50, 60)))
    what = "tucker of 40 x 50 x 60, ranks 8, 10 iterations"
    return _tensorly(
        what,
        lambda x: tucker(x, rank=[8, 8, 8], n_iter_max=10, init="svd", random_state=0, tol=0),
        tensorly.tucker_to_tensor,
        x,
    )


def pyscf_ccsd() -> Program:
    """Return a restricted coupled-cluster computation of water; the result is the correlation energy."""
    from pyscf import gto, scf
    from pyscf.cc import rccsd

    molecule = gto.M(atom="O 0 0 0; H 0 0.757 0.587; H 0 -0.757 0.587", basis="cc-pvdz", verbose=0)
    field = scf.RHF(molecule).run()

    def run() -> float:
        cluster = rccsd.RCCSD(field)
        cluster.conv_tol = 1e-9
        energy, *_ = cluster.kernel()
        return float(energy)

    what = "RCCSD of water in cc-pVDZ (24 orbitals), converged to 1e-9"
    return Program(what, "pyscf", run, {"as it is": as_it_is, "contractc": in_pyscf}, 1e-7)


PROGRAMS = {
    "quimb": quimb_dmrg,
    "tensorly-parafac": tensorly_parafac,
    "tensorly-tucker": tensorly_tucker,
    "pyscf": pyscf_ccsd,
}


def timed(program: Program, way: str) -> tuple[float, Any]:
    """Return the seconds of one run and its result."""
    with program.ways[way]():
        start = perf_counter()
        result = program.run()
        return perf_counter() - start, result


def measured(name: str) -> dict[str, Any]:
    """Run a program every way in turn, compare the results, print a line each, and return them."""
    program = PROGRAMS[name]()
    first = {way: timed(program, way) for way in program.ways}
    expected = first["as it is"][1]
    print(f"{name}: {program.what} ({program.project} {version(program.project)})")
    rounds: list[dict[str, float]] = []
    for k in range(ROUNDS):
        order = list(program.ways)[:: 1 if k % 2 else -1]
        done = {way: timed(program, way) for way in order}
        for way, (_, result) in done.items():
            if not np.allclose(result, expected, rtol=program.tolerance, atol=program.tolerance):
                sys.exit(f"{name}: {way} gives another result")
        rounds.append({way: seconds for way, (seconds, _) in done.items()})
    ways: dict[str, Any] = {}
    for way in program.ways:
        seconds = [r[way] for r in rounds]
        ratios = [r["as it is"] / r[way] for r in rounds]
        low, _, high = quantiles(ratios, n=4)
        ways[way] = {
            "first": first[way][0],
            "median": median(seconds),
            "own_over_this": [low, median(ratios), high],
        }
        print(
            f"  {way:15} {median(seconds):8.3f} s (first {first[way][0]:.3f})"
            f"   own time / this: {median(ratios):.2f} (quartiles {low:.2f} to {high:.2f})"
        )
    return {
        "benchmark": name,
        "what": program.what,
        "rounds": ROUNDS,
        "ways": ways,
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "device": processor(),
        "versions": {p: version(p) for p in (program.project, "numpy")}
        | {"contractc": contractc.__version__},
    }


def main(names: Sequence[str]) -> None:
    """Measure the programs called `names`, or all."""
    for name in names or PROGRAMS:
        row = measured(name)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])

"""The subcommands: each reads its arguments, calls the API, prints, and returns the exit status."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from contractc import api, bundle, tensorfiles
from contractc.backends import backend_named
from contractc.bench.command import SHORT, shape_of
from contractc.building import build, plan_of
from contractc.cli.failure import Failure
from contractc.errors import StoreError, UnsupportedError
from contractc.executable import Executable
from contractc.machine import Target, physical_memory
from contractc.network import TensorNetwork
from contractc.options import Options, Search
from contractc.plans import Plan
from contractc.search import SEARCHES
from contractc.search.clock import Progress
from contractc.store import open_store


class Problem(NamedTuple):
    """What is to be contracted: an expression and shapes with what else they need, or a network."""

    expression: str
    shapes: list[tuple[int, ...]]
    dtype: str
    dynamic: list[str]
    network: TensorNetwork | None


def plan(options: argparse.Namespace) -> int:
    """Print the plan of an expression or a network."""
    problem = _problem_of(options)
    found = _planned(problem, options)
    if options.html is not None:
        _write_page(found, options.html)
    print(found.to_json() if options.json else found)
    return 0


def compile(options: argparse.Namespace) -> int:
    """Compile for every target, print a stage of the first, and save a bundle."""
    problem = _problem_of(options)
    constants = dict(map(_constant, options.constant))
    made = [_compiled(problem, options, target, constants) for target in options.target]
    digest = made[0].save(options.save, *made[1:]) if options.save is not None else None
    first = made[0]
    stages: dict[str, Any] = {
        "network": first.plan.network,
        "plan": first.plan,
        "program": first.program,
        "source": first.source,
        "executable": first,
    }
    if options.json:
        program = json.loads(first.program.to_json())
        body = {"program": program, "notes": first.notes, "targets": [str(e.target) for e in made]}
        print(json.dumps(body | ({"sha256": digest} if digest else {}), sort_keys=True))
        return 0
    print(str(stages[options.show]).rstrip("\n"))
    if digest is not None:
        print(f"{digest}  {options.save}")
    return 0


def run(options: argparse.Namespace) -> int:
    """Run a bundle or an expression on arrays from files, and write or print the results."""
    arrays: list[Any] = [x for path in options.files for x in _arrays(path).values()]
    if options.what.endswith(".ccb") or Path(options.what).is_file():
        executable = bundle.load(options.what, options.target, trust=options.trust, sha256=options.sha256)
        target = executable.target
        portable = backend_named(target.backend)
        if target.backend != "numpy":
            arrays = [portable.from_portable(x, target.device) for x in arrays]
        results = executable(*arrays)
        results = results if isinstance(results, tuple) else (results,)
        results = tuple(map(portable.to_portable, results))
    else:
        results = api.contract(options.what, *arrays)
    named = {str(k): x for k, x in enumerate(results if isinstance(results, tuple) else (results,))}
    made = {name: np.asarray(x) for name, x in named.items()}
    if options.out is not None:
        _write_arrays(options.out, made)
    if options.json:
        about = [{"name": k, "dtype": x.dtype.name, "shape": x.shape} for k, x in made.items()]
        print(json.dumps({"results": about, "out": options.out and str(options.out)}, sort_keys=True))
    elif options.out is None:
        for x in made.values():
            print(x)
    return 0


def tune(options: argparse.Namespace) -> int:
    """Let a backend choose its kernels by measurement, and print the program with its choices."""
    executable = _compiled(_problem_of(options), options, options.target, {})
    backend = backend_named(executable.target.backend)
    if not hasattr(backend, "tune"):
        raise UnsupportedError(f"backend '{executable.target.backend}' has nothing to tune")
    found = backend.tune(executable.program, executable.target, options.database)
    print(found.to_json() if options.json else found)
    return 0


def cache(options: argparse.Namespace) -> int:
    """List, shrink or check the store."""
    store = open_store()
    if store is None:
        raise StoreError("there is no store; CONTRACTC_STORE names its folder, and `off` none")
    if options.bytes is not None and options.action != "prune":
        raise Failure("--bytes goes with prune")
    if options.bytes is not None and options.bytes < 0:
        raise Failure(f"--bytes {options.bytes} is less than nothing")
    if options.action == "ls":
        entries, head = store.ls(), str(store)
    elif options.action == "prune":
        entries = store.prune(options.bytes)
        head = f"removed {len(entries)} entries; {store}"
    else:
        entries = store.verify()
        head = f"removed {len(entries)} damaged entries; {store}"
    if options.json:
        rows = [asdict(e) for e in entries]
        print(json.dumps({"folder": str(store.folder), "limit": store.limit, "entries": rows}))
    else:
        print("\n".join([head, *map(str, entries)]))
    return int(options.action == "verify" and bool(entries))


def doctor(options: argparse.Namespace) -> int:
    """Print what is installed, what works, and how fast it is."""
    from contractc.cli.doctor import examined, told

    found = examined(measure=not options.quick)
    print(json.dumps(found, sort_keys=True) if options.json else told(found))
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "plan": plan,
    "compile": compile,
    "run": run,
    "tune": tune,
    "cache": cache,
    "doctor": doctor,
}
"""Every subcommand by its name, but `bench`, which has a parser of its own."""


def _problem_of(options: argparse.Namespace) -> Problem:
    """Return what the arguments ask to contract."""
    if (options.expression is None) == (options.network is None):
        raise Failure("give an expression with --shapes, or --network")
    dtype = SHORT.get(options.dtype, options.dtype)
    if options.expression is not None:
        try:
            shapes = [shape_of(text) for text in options.shapes]
        except ValueError as error:
            raise Failure(str(error)) from None
        terms = options.expression.partition("->")[0].count(",") + 1
        if len(shapes) != terms:
            raise Failure(f"the expression has {terms} term{'s' * (terms > 1)}, --shapes gives {len(shapes)}")
        return Problem(options.expression, shapes, dtype, options.dynamic, None)
    text = sys.stdin.read() if str(options.network) == "-" else _text(options.network)
    data = _json(text, options.network)
    if not isinstance(data, dict):
        raise ValueError(f"{options.network} holds no network: it is no JSON object")
    if "noun" in data:
        return Problem("", [], dtype, [], TensorNetwork.from_json(text))
    unknown = data.keys() - {"expression", "shapes", "dtype", "dynamic"}
    given: Any = data.get("shapes")
    if unknown or not isinstance(data.get("expression"), str) or not _is_shapes(given):
        raise ValueError(f"{options.network} holds no network: it needs an expression and shapes")
    dtype = str(data.get("dtype", dtype))
    varying = data.get("dynamic", [])
    if not isinstance(varying, list):
        raise ValueError(f"{options.network} holds no network: dynamic is no list of modes")
    dynamic = [str(x) for x in varying]
    return Problem(data["expression"], [tuple(s) for s in given], SHORT.get(dtype, dtype), dynamic, None)


def _text(path: Path) -> str:
    """Return the text in a file."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text") from None


def _json(text: str, path: Path) -> Any:
    """Return the JSON in `text`, which is that of a file."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"{path} is nested too deep") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None


def _is_shapes(shapes: Any) -> bool:
    return isinstance(shapes, list) and all(
        isinstance(s, list) and all(type(n) is int for n in s) for s in shapes
    )


def _optimize(options: argparse.Namespace) -> Any:
    """Return what `optimize=` is to be; progress is shown if somebody watches."""
    path = getattr(options, "path", None)
    if path is not None:
        data = _json(_text(path), path)
        steps = data.get("opt_einsum_path") if isinstance(data, dict) else data
        if not isinstance(steps, list):
            raise ValueError(f"{path} holds no path")
        return [tuple(step) if isinstance(step, list) else step for step in steps]
    show = _watched(options)
    if (options.time_limit is None and not show) or options.optimize not in SEARCHES:
        return options.optimize
    return Search(options.optimize, options.time_limit, progress=_show if show else False)


def _watched(options: argparse.Namespace) -> bool:
    return sys.stderr.isatty() and not options.json


def _show(state: Progress) -> None:
    """Write how far a search is, over what was written before."""
    sys.stderr.write(f"\r{f'planning {state.share:4.0%}, 10^{state.log10_flops:.2f} flops':40}")
    sys.stderr.flush()


def _memory_limit(options: argparse.Namespace) -> int | str | None:
    text = options.memory_limit
    return text if text in (None, "max_input") or not text.isdigit() else int(text)


def _planned(problem: Problem, options: argparse.Namespace) -> Plan:
    limit, optimize = _memory_limit(options), _optimize(options)
    if problem.network is not None:
        frozen = tuple(optimize) if isinstance(optimize, list) else optimize
        found = plan_of(problem.network, Options(frozen, limit))
    else:
        found = api.plan(
            problem.expression,
            *problem.shapes,
            dtype=problem.dtype,
            dynamic=problem.dynamic,
            optimize=optimize,
            memory_limit=limit,
            semiring=options.semiring,
            conj=options.conj,
        )
    if _watched(options):
        sys.stderr.write(f"\r{'':40}\r")
    return found


def _compiled(
    problem: Problem, options: argparse.Namespace, target: str, constants: Mapping[int, np.ndarray]
) -> Executable:
    """Return the problem compiled for one target."""
    name, _, device = target.partition(":")
    chosen = Target(name, device or "cpu")
    if problem.network is not None:
        if constants or any(t.constant for t in problem.network.tensors):
            raise Failure("constants need an expression and --constant; a network has none of their values")
        return build(_planned(problem, options), chosen, Options())
    operands: list[Any] = list(problem.shapes)
    backend = backend_named(name)
    for k, x in constants.items():
        if not 0 <= k < len(operands):
            raise Failure(f"--constant names operand {k}; there are {len(operands)} operands")
        if x.shape != operands[k]:
            raise Failure(f"the constant for operand {k} has shape {x.shape}, --shapes says {operands[k]}")
        operands[k] = backend.from_portable(x, chosen.device) if hasattr(backend, "from_portable") else x
    return api.compile(
        problem.expression,
        *operands,
        dtype=problem.dtype,
        constants=constants,
        dynamic=problem.dynamic,
        target=chosen,
        optimize=_optimize(options),
        memory_limit=_memory_limit(options),
        semiring=options.semiring,
        conj=options.conj,
    )


def _constant(text: str) -> tuple[int, np.ndarray]:
    number, _, path = text.partition("=")
    if not number.isdigit() or not path:
        raise Failure(f"--constant {text!r:.60} is not an operand's number, `=` and a file")
    return int(number), next(iter(_arrays(Path(path)).values()))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays in a file by name, in its order; Python objects are not read."""
    if path.suffix == ".safetensors":
        return tensorfiles.load(path)[0]
    if path.suffix not in (".npy", ".npz"):
        raise Failure(f"{path} is no .npy, .npz or .safetensors file")
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return {"0": found}
        with found:
            held, room = sum(i.file_size for i in found.zip.infolist()), physical_memory()
            if room and held > room:
                raise MemoryError(f"{path} holds {held} bytes, more than there is memory")
            return {name: found[name] for name in found.files}
    except (OSError, MemoryError):
        raise
    except (
        Exception
    ):  # NumPy and zipfile raise nearly anything; NumPy's text says how to run code from the file
        raise ValueError(f"{path} is damaged, or holds Python objects, which are not read") from None


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    if path.suffix == ".safetensors":
        tensorfiles.save(path, arrays)
    elif path.suffix == ".npz":
        with path.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    else:
        raise Failure(f"--out {path} is no .npz or .safetensors file")


def _write_page(found: Plan, path: Path) -> None:
    try:
        from contractc.report import report
    except ModuleNotFoundError:
        raise UnsupportedError("this contractc writes no pages") from None
    report(found, path)

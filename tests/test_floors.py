"""The shape of the house: who imports whom, and the rules a reader of the source relies on.

The checks take the folder that holds `contractc` and `kernels`, so that they are tested on small wrong ones.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOP = "contractc"
KERNELS = "contractc_kernels"

FLOORS = """
    contractc
    __main__
    cli, nn, compat
    bench, report
    formats
    api, derivatives, graphical, calls, reading, building, ranking, remembering
    bundle, tune
    assembly, training, hosted, search, lower, backends, providers, store
    cost
    executable, plans, fused, workspace, programs, machine
    grouping, operations, slices
    expansion, several
    network
    notation, operands, evaluation, tensorfiles, dtypes, semirings, default_rates
    archive, serial, options, errors, recent
    contractc_kernels
"""
"""A room imports from the floors below, and on its own floor from the rooms to its right.

`machine` is below `cost` because an Executable has a Target.
"""

ROOMS = [room.strip() for line in FLOORS.split("\n") for room in line.split(",") if room.strip()]

OPTIONAL = {
    "array_api_compat": ("backends/array_api",),
    "cotengra": ("bench/peers.py", "compat/cotengra.py"),
    "cuda": ("backends/triton",),
    "cupy": ("bench/peers.py",),
    "cuquantum": ("bench/peers.py",),
    "jax": ("bench/peers.py",),
    "ml_dtypes": ("dtypes.py",),
    "networkx": ("network.py",),
    "llvmlite": ("providers/",),
    "numba": ("providers/", "search/anneal_numba.py"),
    "opt_einsum": ("search/external.py", "compat/", "bench/peers.py"),
    "pytblis": ("bench/peers.py",),
    "torch": ("backends/torch", "backends/triton", "providers/", "nn/", "bench/"),
    "tqdm": ("search/clock.py",),
    "triton": ("backends/triton",),
}
"""Where else than in type-checking blocks a library that may be absent is imported; no other library is."""

PICKLES = {"_pickle", "cloudpickle", "dill", "joblib", "pickle", "shelve"}
ENVIRONMENT = {"environ", "environb", "getenv", "putenv", "unsetenv"}
MOST_LINES = 500


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module or name: its line, its dotted name, and whether only type checkers see it."""

    line: int
    name: str
    typing: bool

    @property
    def library(self) -> str:
        return self.name.partition(".")[0]


def sources(root: Path) -> list[str]:
    """Return the paths of all modules under `root`, relative to it."""
    folders = [root / TOP, root / "kernels" / KERNELS]
    return [p.relative_to(root).as_posix() for folder in folders for p in sorted(folder.rglob("*.py"))]


def inside(path: str) -> str:
    """Return a path below its package: `search/greedy.py` for `contractc/search/greedy.py`."""
    return path.partition(f"{KERNELS}/" if path.startswith("kernels/") else "/")[2]


def room_of(path: str) -> str:
    """Return the room a source belongs to: a module's name, or that of the first folder below the package."""
    if path.startswith("kernels/"):
        return KERNELS
    first = inside(path).partition("/")[0].removesuffix(".py")
    return TOP if first == "__init__" else first


def imports(root: Path, path: str) -> list[Import]:
    """Return every import in a source, those inside functions and by `import_module("...")` too."""
    tree = parsed(root, path)
    hidden = {
        id(node)
        for guard in ast.walk(tree)
        if isinstance(guard, ast.If) and "TYPE_CHECKING" in ast.unparse(guard.test)
        for statement in guard.body
        for node in ast.walk(statement)
    }
    package = path.removeprefix("kernels/").split("/")[:-1]
    found = []
    for node in ast.walk(tree):
        for name in imported(node, package):
            found.append(Import(node.lineno, name, id(node) in hidden))  # type: ignore[attr-defined]
    return sorted(found, key=lambda i: i.line)


def imported(node: ast.AST, package: list[str]) -> Iterator[str]:
    """Yield the dotted names that one node imports, seen from a module in `package`."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = package[: len(package) - node.level + 1] if node.level else []
        source = ".".join([*base, *([node.module] if node.module else [])])
        yield from (f"{source}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and node.args:
        target = ast.unparse(node.func).rpartition(".")[2]
        literal = node.args[0]
        if target in ("import_module", "__import__") and isinstance(literal, ast.Constant):
            yield str(literal.value)


def parsed(root: Path, path: str) -> ast.Module:
    """Return the syntax tree of a source."""
    return ast.parse((root / path).read_text(encoding="utf-8"), filename=path)


def upward_imports(root: Path, path: str) -> Iterator[str]:
    """Yield each import of a room that is not below, and of a room or by a room that has no floor."""
    here = room_of(path)
    if here not in ROOMS:
        yield f"{path}:1: room '{here}' has no floor; add it to FLOORS"
        return
    for found in imports(root, path):
        if found.library not in (TOP, KERNELS):
            continue
        there = TOP
        if found.library == KERNELS:
            there = KERNELS
        elif "." in found.name:
            name = found.name.split(".")[1]
            if (root / TOP / name).is_dir() or (root / TOP / f"{name}.py").exists():
                there = name
        if there not in ROOMS:
            yield f"{path}:{found.line}: room '{there}' has no floor; add it to FLOORS"
        elif there != here and ROOMS.index(there) < ROOMS.index(here):
            yield f"{path}:{found.line}: '{here}' imports '{found.name}', and '{there}' is not below it"


def stray_libraries(root: Path, path: str) -> Iterator[str]:
    """Yield each import of a library outside of the rooms that may use it."""
    kernel = room_of(path) == KERNELS
    always = {TOP, KERNELS, "numpy", *sys.stdlib_module_names} - PICKLES
    if kernel:
        always = {KERNELS, "triton", *sys.stdlib_module_names} - PICKLES
    for found in imports(root, path):
        if found.library in always or (found.typing and found.library in OPTIONAL):
            continue
        rooms = () if kernel else OPTIONAL.get(found.library, ())
        if not inside(path).startswith(rooms):
            place = " or ".join(rooms) or "nowhere"
            yield f"{path}:{found.line}: imports {found.library}; its place is {place}"


def environment_readers(root: Path, path: str) -> Iterator[str]:
    """Yield each use of the process's environment outside of options.py."""
    if path == f"{TOP}/options.py":
        return
    for node in ast.walk(parsed(root, path)):
        used: set[str] = set()
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os":
            used = {node.attr}
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            used = {alias.name for alias in node.names}
        for name in sorted(used & ENVIRONMENT):
            yield f"{path}:{node.lineno}: os.{name}; only options.py reads the environment"  # type: ignore[attr-defined]


def oversized(root: Path, path: str) -> Iterator[str]:
    """Yield the number of lines of a source nobody reads in one sitting."""
    lines = len((root / path).read_text(encoding="utf-8").splitlines())
    if lines > MOST_LINES:
        yield f"{path}:{lines}: {lines} lines, more than {MOST_LINES}"


CHECKS = (upward_imports, stray_libraries, environment_readers, oversized)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("path", sources(ROOT))
def test_source_keeps_the_rules(path: str, check: Callable[[Path, str], Iterator[str]]) -> None:
    faults = list(check(ROOT, path))
    assert not faults, "\n" + "\n".join(faults)


def test_kernels_is_a_source_root_and_no_package() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()


KERNEL = "../kernels/contractc_kernels/a.py"

WRONG = [
    (
        upward_imports,
        "network.py",
        "from contractc import api",
        "1: 'network' imports 'contractc.api', and 'api'",
    ),
    (
        upward_imports,
        "network.py",
        "from contractc import plan",
        "1: 'network' imports 'contractc.plan', and",
    ),
    (upward_imports, "network.py", "import contractc.plans", "1: 'network' imports 'contractc.plans'"),
    (
        upward_imports,
        "network.py",
        "\ndef f():\n    from .plans import Plan",
        "3: 'network' imports 'contractc.pl",
    ),
    (upward_imports, "plans.py", "import contractc.executable", "1: 'plans' imports 'contractc.executable'"),
    (
        upward_imports,
        "lower/x.py",
        "from ..search import greedy",
        "1: 'lower' imports 'contractc.search.greedy'",
    ),
    (upward_imports, "cost.py", "import_module('contractc.lower')", "1: 'cost' imports 'contractc.lower'"),
    (upward_imports, "kitchen.py", "", "1: room 'kitchen' has no floor"),
    (upward_imports, "api.py", "import contractc.kitchen", "1: room 'kitchen' has no floor"),
    (upward_imports, KERNEL, "import contractc.errors", "1: 'contractc_kernels' imports 'contractc.errors'"),
    (
        stray_libraries,
        "plans.py",
        "def f():\n    import networkx",
        "2: imports networkx; its place is network.py",
    ),
    (stray_libraries, "network.py", "import torch.fx", "1: imports torch; its place is backends/torch or"),
    (
        stray_libraries,
        "search/greedy.py",
        "from opt_einsum import paths",
        "1: imports opt_einsum; its place is",
    ),
    (stray_libraries, "serial.py", "import pickle", "1: imports pickle; its place is nowhere"),
    (stray_libraries, "api.py", "import scipy", "1: imports scipy; its place is nowhere"),
    (stray_libraries, KERNEL, "import torch", "1: imports torch; its place is nowhere"),
    (environment_readers, "api.py", "import os\nos.environ['A']", "2: os.environ; only"),
    (environment_readers, "api.py", "from os import getenv", "1: os.getenv; only"),
    (oversized, "api.py", "\n" * 501, "501: 501 lines, more than 500"),
]

RIGHT = [
    (upward_imports, "plans.py", "from contractc import errors, network\nfrom . import programs"),
    (upward_imports, "lower/x.py", "from contractc.lower import passes\nfrom contractc.cost import seconds"),
    (upward_imports, "__init__.py", "from contractc.api import plan"),
    (stray_libraries, "plans.py", "if TYPE_CHECKING:\n    import networkx"),
    (stray_libraries, "backends/torch_cpu.py", "import torch, numpy.linalg, math"),
    (stray_libraries, KERNEL, "import triton.language as tl"),
    (environment_readers, "options.py", "import os\nos.environ['A']"),
    (environment_readers, "machine.py", "import os\nos.sysconf('SC_PAGE_SIZE')"),
    (oversized, "api.py", "\n" * 500),
]


def small_house(root: Path, path: str, text: str) -> str:
    """Write a package of empty modules and one source under `root`, and return that source's path."""
    for name in ("kitchen", "search/greedy", *ROOMS, path.removesuffix(".py")):
        file = (root / TOP / f"{name}.py").resolve()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    file = (root / TOP / path).resolve()
    file.write_text(text, encoding="utf-8")
    return file.relative_to(root.resolve()).as_posix()


Check = Callable[[Path, str], Iterator[str]]


@pytest.mark.parametrize(("check", "path", "text", "fault"), WRONG)
def test_check_names_file_and_line(check: Check, path: str, text: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / TOP).mkdir()
    source = small_house(tmp_path, path, text)
    assert source in sources(tmp_path)
    (found,) = check(tmp_path, source)
    assert found.startswith(f"{source}:{fault}")


@pytest.mark.parametrize(("check", "path", "text"), RIGHT)
def test_check_lets_pass(check: Check, path: str, text: str, tmp_path: Path) -> None:
    (tmp_path / TOP).mkdir()
    assert list(check(tmp_path, small_house(tmp_path, path, text))) == []


def in_a_fresh_python(code: str) -> str:
    """Return what `code` prints in an interpreter that has imported nothing yet."""
    folders = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": folders},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "code",
    [
        "import contractc",
        "from contractc import *",
        "import contractc; contractc.contract('ij,jk->ik', [[1.0]], [[2.0]])",
    ],
)
def test_no_optional_library_is_loaded(code: str) -> None:
    loaded = in_a_fresh_python(f"{code}; import json, sys; print(json.dumps(list(sys.modules)))")
    assert not {*OPTIONAL, "jax", "scipy"} & set(json.loads(loaded))


PUBLIC_NAMES_SURVIVE = """
import importlib, pkgutil, types
import contractc

before = {name: getattr(contractc, name) for name in contractc.__all__}
for name, value in before.items():
    assert not isinstance(value, types.ModuleType), f"{name} is a module"
for module in pkgutil.walk_packages(contractc.__path__, "contractc."):
    try:
        importlib.import_module(module.name)
    except Exception as error:
        missing = error if isinstance(error, ModuleNotFoundError) else error.__context__
        if not isinstance(missing, ModuleNotFoundError) or missing.name.partition(".")[0] not in OPTIONAL:
            raise
    for name, value in before.items():
        assert getattr(contractc, name) is value, f"importing {module.name} replaced contractc.{name}"
"""


def test_public_names_survive_importing_every_module() -> None:
    in_a_fresh_python(f"OPTIONAL = {sorted(OPTIONAL)}\n{PUBLIC_NAMES_SURVIVE}")

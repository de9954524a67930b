"""Bundles: an expression compiled ahead of time in one file, which runs elsewhere without search.

A bundle is an archive (see `contractc.archive`) of JSON, arrays, source text and binaries. Of these only binaries
are code, and they are used only if the caller trusts the file; source is there for reading: it is generated again
from the program, and has to be the same.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from typing import Any

import numpy as np

from contractc import archive, serial, tensorfiles
from contractc.assembly import executable_of
from contractc.backends import backend_named
from contractc.errors import BundleError, UnsupportedError
from contractc.executable import Executable
from contractc.machine import Target, physical_memory
from contractc.plans import Plan
from contractc.programs import Program
from contractc.providers.loops import postponed

__all__ = ["contents", "load", "save"]

FORMAT = 1
"""Number of the layout of a bundle."""

GENERATOR = ("backends/**/*.py", "providers/**/*.py")
"""The modules that turn programs into source."""

MOST_PARTS = 64
"""Targets of one bundle: each part is tried until one works."""

_MOST_JSON = 2**24
"""Bytes of the longest JSON that is read: plans of the largest networks have a few million."""

_MANIFEST = "manifest.json"
_CONSTANTS = "constants.safetensors"


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the archive and the SHA-256 of its bytes."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Part:
    """The expression compiled for one target: where its pieces are, and with which versions it was made.

    `exponent` tells that the program returns exponents; `binaries` are the names of members that are code.
    """

    backend: str
    device: str
    exponent: bool
    plan: str
    program: str
    source: str
    binaries: tuple[str, ...]
    versions: tuple[str, ...]

    @property
    def target(self) -> Target:
        """Return where this part runs."""
        return Target(self.backend, self.device)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle holds: a part for each target, and every member but this one.

    `generator` is a digest of what generated the sources: the same generator has to generate them again.
    """

    bundle: int
    contractc: str
    generator: str
    parts: tuple[Part, ...]
    members: tuple[Member, ...]

    def __str__(self) -> str:
        lines = [f"bundle of contractc {self.contractc}"]
        for part in self.parts:
            code = f", {len(part.binaries)} binaries" if part.binaries else ""
            lines.append(f"  {part.target}: {part.program}{code} ({', '.join(part.versions)})")
        return "\n".join(lines)


def save(path: str | PathLike[str], *executables: Executable) -> str:
    """Write executables of one expression, each for another target, to a bundle and return the file's SHA-256.

    The file is replaced at once or not at all. Equal executables give equal bytes.

    Raises:
        BundleError: an executable cannot be saved, or two do not belong together, with the reason.
        OSError: the file cannot be written.
    """
    data = packed(*executables)
    tensorfiles.replace_file(path, data)
    return hashlib.sha256(data).hexdigest()


def packed(*executables: Executable) -> bytes:
    """Return the bytes of the bundle of `executables`; see `save`."""
    first = executables[0]
    parts: list[Part] = []
    members: dict[str, bytes] = {}
    arrays: dict[str, np.ndarray] = {}
    for executable in executables:
        if executable.plan.network != first.plan.network or executable.exponent != first.exponent:
            raise BundleError(
                f"{first.target} and {executable.target} were compiled from different expressions"
            )
        if any(part.target == executable.target for part in parts):
            raise BundleError(f"two executables for {executable.target}; a bundle has one for each target")
        if len(parts) == MOST_PARTS:
            raise BundleError(f"a bundle has at most {MOST_PARTS} targets")
        arrays |= dict(_portable_constants(executable))
        part, own = _part_of(executable, first)
        parts.append(part)
        members |= own
    if arrays:
        members[_CONSTANTS] = tensorfiles.packed(arrays)
    listed = tuple(Member(name, hashlib.sha256(data).hexdigest()) for name, data in members.items())
    manifest = Manifest(FORMAT, _version(), serial.sources_digest(*GENERATOR), tuple(parts), listed)
    try:
        return archive.packed({_MANIFEST: serial.dumps(manifest).encode(), **members})
    except ValueError as error:
        raise BundleError(f"this does not fit into a bundle: {error}") from None


def load(
    path: str | PathLike[str],
    target: str | Target | None = None,
    *,
    trust: bool = False,
    sha256: str | None = None,
) -> Executable:
    """Return the executable in a bundle, ready to run: nothing is searched.

    Args:
        target: "numpy", "torch", "cuda:90", ...; None for the first that works here: binaries for the device of
            this machine before sources compiled for it, and these before what else there is, in the order saved.
        trust: use binaries in the file, which are code that nothing can check. Everything else is checked and
            needs no trust.
        sha256: what `save` returned (`sha256sum` of the file): anything else is refused, and binaries are trusted.

    Raises:
        BundleError: the file is damaged or no bundle, or no target in it works here; for each it says why.
        OSError: the file cannot be read.
    """
    name = os.path.basename(path)
    manifest, members = _read(path, sha256)
    wanted = [p for p in manifest.parts if target is None or str(target) in (str(p.target), p.device)]
    if not wanted:
        held = ", ".join(str(p.target) for p in manifest.parts)
        raise BundleError(f"{name} has nothing for {target}; it has {held}")
    if target is None:
        wanted.sort(key=lambda p: p.device == "cpu")
    trusted = trust or sha256 is not None
    refusals: list[str] = []
    for part in wanted:
        head = f"loaded from {name}"
        try:
            made, remarks = _loaded(part, members, trusted, manifest)
        except (UnsupportedError, ImportError) as error:
            refusals.append(f"not for {part.target}: {error}")
            continue
        except ValueError as error:
            raise BundleError(f"{name} is damaged: {error}") from None
        return replace(made, remarks=(head, *refusals, *remarks, *made.remarks))
    raise BundleError("\n  ".join([f"{name} cannot run here", *refusals]))


def contents(path: str | PathLike[str]) -> Manifest:
    """Return what a bundle holds; raises BundleError if it is damaged or none."""
    return _read(path, None)[0]


def _part_of(executable: Executable, first: Executable) -> tuple[Part, dict[str, bytes]]:
    """Return the entry of an executable in the manifest and its members; plans that are equal are stored once."""
    target = executable.target
    folder = str(target).replace(":", "-")
    plan = "plan.json" if executable.plan == first.plan else f"{folder}/plan.json"
    members = {
        plan: executable.plan.to_json().encode(),
        f"{folder}/program.json": executable.program.to_json().encode(),
        f"{folder}/source.py": executable.source.encode(),
    }
    backend = backend_named(target.backend)
    binaries = {}
    if hasattr(backend, "binaries"):
        made = backend.binaries(executable.program, target.device)
        binaries = {f"{folder}/{name}": data for name, data in made.items()}
    return Part(
        target.backend,
        target.device,
        executable.exponent,
        plan,
        f"{folder}/program.json",
        f"{folder}/source.py",
        tuple(binaries),
        _versions(target),
    ), members | binaries


def _portable_constants(executable: Executable) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the constants as NumPy arrays by the digest under which the program knows them."""
    backend = backend_named(executable.target.backend)
    if not hasattr(backend, "to_portable"):
        raise BundleError(f"programs of backend '{executable.target.backend}' cannot be saved")
    for constant, x in zip(executable.program.constants, executable.constants, strict=True):
        try:
            array = backend.to_portable(x)
            tensorfiles.packed({"": array})
        except (UnsupportedError, ValueError) as error:
            raise BundleError(f"constant %{constant.value.number} cannot be saved: {error}") from None
        yield constant.digest, array


def _read(path: str | PathLike[str], sha256: str | None) -> tuple[Manifest, dict[str, memoryview]]:
    """Return the manifest and the members of a bundle after checking every byte of it."""
    try:
        data = archive.read_file(path, min(archive.MOST_BYTES, physical_memory() or archive.MOST_BYTES))
        found = hashlib.sha256(data).hexdigest()
        if sha256 is not None and found != sha256.lower():
            raise ValueError(f"its SHA-256 is {found}, not {sha256}")
        members = archive.unpacked(data)
        manifest: Manifest = serial.loads(_text(members, _MANIFEST), (Manifest, Part, Member))
        if manifest.bundle != FORMAT:
            raise ValueError(f"it has layout {manifest.bundle}, this contractc reads layout {FORMAT}")
        listed = {m.name: m.sha256 for m in manifest.members}
        if {_MANIFEST, *listed} != set(members) or len(listed) != len(manifest.members):
            raise ValueError("its manifest does not list its members")
        for name, digest in listed.items():
            if hashlib.sha256(members[name]).hexdigest() != digest:
                raise ValueError(f"{name} is not what the manifest lists")
        targets = {part.target for part in manifest.parts}
        if not 0 < len(targets) == len(manifest.parts) <= MOST_PARTS:
            raise ValueError(f"it has {len(manifest.parts)} parts for {len(targets)} targets")
    except ValueError as error:
        raise BundleError(f"{os.path.basename(path)} is not a bundle to be read: {error}") from None
    return manifest, members


def _text(members: Mapping[str, memoryview], name: str) -> str:
    if name not in members:
        raise ValueError(f"there is no {name}")
    if len(members[name]) > _MOST_JSON:
        raise ValueError(f"{name} has {len(members[name])} bytes, more than {_MOST_JSON}")
    return str(members[name], "utf-8")


def _loaded(
    part: Part, members: Mapping[str, memoryview], trusted: bool, manifest: Manifest
) -> tuple[Executable, list[str]]:
    """Return the executable of one part and what is to be said about it.

    Raises:
        UnsupportedError, ImportError: it cannot run here.
        ValueError: the members are not what a bundle holds.
    """
    backend = backend_named(part.backend)
    reason = backend.unavailable(part.device) if hasattr(backend, "unavailable") else None
    if reason is not None:
        raise UnsupportedError(reason)
    if not hasattr(backend, "from_portable"):
        raise ValueError(f"programs of backend '{part.backend}' are in no bundle")
    program = Program.from_json(_text(members, part.program))
    plan = Plan.from_json(_text(members, part.plan))
    constants = _constants(program, members, backend, part.device)
    assembled = partial(executable_of, postponed(program), plan, part.target, constants, part.exponent, save)
    remarks: list[str] = []
    made = _from_binaries(part, members, trusted, assembled, remarks)
    if made is None:
        try:
            made = assembled()
        except (UnsupportedError, ImportError) as error:
            raise UnsupportedError("; ".join([*remarks, str(error)])) from None
    if made.source != _text(members, part.source):
        if manifest.generator == serial.sources_digest(*GENERATOR):
            raise ValueError(f"{part.source} is not what its program generates")
        remarks.append(f"its source was generated anew: contractc {manifest.contractc} generated another one")
    if part.backend == "numpy" and "torch_" in made.source and "torch" not in sys.modules:  # it was tried
        remarks.append("what is by torch NumPy does here: torch is not installed")
    return replace(made, program=program), remarks


def _from_binaries(
    part: Part,
    members: Mapping[str, memoryview],
    trusted: bool,
    assembled: Callable[..., Executable],
    remarks: list[str],
) -> Executable | None:
    """Return the executable made of the binaries of a part; None, and a remark, if they are not used."""
    if not part.binaries:
        return None
    if not trusted:
        remarks.append("its binaries are not used: they are code, and need trust=True or sha256=")
        return None
    held = {name.rpartition("/")[2]: bytes(members[name]) for name in part.binaries if name in members}
    if len(held) != len(part.binaries):
        raise ValueError("its binaries are not all there, or two have one name")
    try:
        return assembled(binaries=held)
    except (UnsupportedError, ImportError) as error:
        remarks.append(f"its binaries are not used: {error}")
        return None


def _constants(program: Program, members: Mapping[str, memoryview], backend: Any, device: str) -> list[Any]:
    """Return the arrays of the program's constants, each checked against type, shape and digest."""
    if not program.constants:
        return []
    if _CONSTANTS not in members:
        raise ValueError(f"there is no {_CONSTANTS}")
    arrays, _ = tensorfiles.unpacked(members[_CONSTANTS])
    found = []
    for constant in program.constants:
        value = constant.value
        array = arrays.get(constant.digest)
        shape = tuple(program.extents[m] for m in value.modes)
        if array is None or array.dtype.name != value.dtype or array.shape != shape:
            raise ValueError(f"there is no constant %{value.number}")
        x = backend.from_portable(array, device)
        if hashlib.sha256(backend.to_bytes(x)).hexdigest() != constant.digest:
            raise ValueError(f"constant %{value.number} has other values than its digest says")
        found.append(x)
    return found


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("contractc")
    except PackageNotFoundError:
        return "of an unknown version"


def _versions(target: Target) -> tuple[str, ...]:
    """Return what this part was made with, for people to read."""
    import platform

    found = [f"python {platform.python_version()}", f"numpy {np.__version__}"]
    backend = backend_named(target.backend)
    found += [backend.version()] if hasattr(backend, "version") else []
    return tuple(found)

"""One content-addressed folder on disk, for what took long to find: plans, sources, binaries, measurements.

An entry is a file named by its kind and key. It starts with the SHA-256 of kind, key and payload, which is
verified at every read: an entry that is damaged, cut short or under a wrong name is not there. An entry is
published whole by one rename, so a reader sees the old one or the new one. Nothing here is needed for a right
result, so no call of `read` or `write` raises for what it finds on disk.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from contractc.errors import StoreError
from contractc.options import store_folder

__all__ = ["Entry", "Store", "open_store", "opened"]

LIMIT = 2**30
"""Bytes of all entries together; the least recently used go first."""

_SHARDS = "0123456789abcdef"
"""Folders that entries are spread over by the first digit of their key, each with its share of the limit.

A writer looks at one of them only, so the bound is kept after every write without a scan of everything.
"""

_BLOCK = 4096
"""Bytes of disk that the smallest file takes; sizes are counted in these."""

_MAGIC = b"contractc store 1\n"
_HEAD = len(_MAGIC) + hashlib.sha256().digest_size

_STALE = 3600.0
"""Seconds after which an unfinished file of another host, or of a process that lives on, is removed."""

_TOUCH = 60.0
"""An entry is marked as used at most once in so many seconds, so that reading hardly ever writes."""

_KIND = re.compile(r"[a-z]{1,16}")
_KEY = re.compile(r"[0-9a-f]{16,128}")
_NAME = re.compile(r"([a-z]{1,16})-([0-9a-f]{16,128})")
_UNFINISHED = re.compile(r"\.(.+)-(\d+)-[0-9a-f]{16}")

_log = logging.getLogger("contractc")


@dataclass(frozen=True, slots=True)
class Entry:
    """What `ls` tells of an entry: its bytes with the head, and when it was last used (seconds since 1970)."""

    kind: str
    key: str
    size: int
    used: float

    def __str__(self) -> str:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.used))
        return f"{self.kind:8} {self.key[:16]}  {self.size:>10}  {when}"


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of entries, each a payload under a kind (a word) and a key (a digest in hexadecimal)."""

    folder: Path
    limit: int = LIMIT

    def __str__(self) -> str:
        entries = self.ls()
        total = sum(_blocks(e.size) for e in entries)
        return f"{self.folder}: {len(entries)} entries, {total} of {self.limit} bytes"

    def read(self, kind: str, key: str) -> bytes | None:
        """Return the payload stored under `kind` and `key`, or None if there is none that is whole."""
        path = self._path(kind, key)
        try:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _FLAGS)
        except OSError:
            return None
        try:
            with open(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                if not _is_own_file(status) or not _HEAD <= status.st_size <= self._share():
                    return None
                data = file.read(status.st_size)
            if abs(time.time() - status.st_mtime) > _TOUCH:
                with suppress(OSError):  # a store that is read-only is used as it is
                    os.utime(path)
        except OSError:
            return None
        return data[_HEAD:] if data[:_HEAD] == _head(kind, key, data[_HEAD:]) else None

    def write(self, kind: str, key: str, payload: bytes) -> bool:
        """Store `payload` under `kind` and `key`, and return whether that went well.

        What is larger than a sixteenth of the limit is not stored.
        """
        path = self._path(kind, key)
        if _blocks(_HEAD + len(payload)) > self._share():
            return False
        unfinished = path.with_name(f".{_host()}-{os.getpid()}-{secrets.token_hex(8)}")
        try:
            _make_folder(path.parent, self.folder)
            try:
                _write_file(unfinished, _head(kind, key, payload) + payload)
                os.replace(unfinished, path)
            except BaseException:
                with suppress(OSError):
                    unfinished.unlink()
                raise
        except (OSError, StoreError) as error:
            _say_once(f"the store in {self.folder} cannot be written: {_reason(error)}")
            return False
        self._keep_bound(path)
        return True

    def ls(self) -> list[Entry]:
        """Return all entries, the last used first; their payloads are not looked at."""
        found = [entry for shard in _SHARDS for _, entry in _entries(self.folder / shard)]
        return sorted(found, key=lambda e: (-e.used, e.kind, e.key))

    def prune(self, limit: int | None = None) -> list[Entry]:
        """Remove the least recently used entries until at most `limit` bytes are left, and return them.

        Files that a process left unfinished are removed too.
        """
        removed = []
        left = self.limit if limit is None else limit
        for shard in _SHARDS:
            _remove_unfinished(self.folder / shard)
        for entry in self.ls():
            left -= _blocks(entry.size)
            if left < 0:
                with suppress(OSError):
                    self._path(entry.kind, entry.key).unlink()
                    removed.append(entry)
        return removed

    def verify(self) -> list[Entry]:
        """Read every entry, remove those that are damaged, and return them."""
        damaged = [e for e in self.ls() if self.read(e.kind, e.key) is None]
        for entry in damaged:
            with suppress(OSError):
                self._path(entry.kind, entry.key).unlink()
        return damaged

    def _path(self, kind: str, key: str) -> Path:
        if not _KIND.fullmatch(kind) or not _KEY.fullmatch(key):
            raise ValueError(f"kind {kind!r:.40} is no word, or key {key!r:.40} no digest in hexadecimal")
        return self.folder / key[0] / f"{kind}-{key}"

    def _share(self) -> int:
        return self.limit // len(_SHARDS)

    def _keep_bound(self, newest: Path) -> None:
        """Remove what was used longest ago beside `newest`, so that its shard is within its share of the limit."""
        _remove_unfinished(newest.parent)
        entries = sorted(_entries(newest.parent), key=lambda item: item[1].used)
        excess = sum(_blocks(e.size) for _, e in entries) - self._share()
        for file, entry in entries:
            if excess <= 0:
                return
            if file != newest:
                with suppress(OSError):
                    file.unlink()
                excess -= _blocks(entry.size)


def open_store() -> Store | None:
    """Return the store of this user, or None where there is none that is safe; why is logged once."""
    try:
        folder = store_folder()
        return None if folder is None else _opened(folder)
    except StoreError as error:
        _say_once(f"contractc runs without a store: {error}")
        return None


def opened(folder: Path) -> Store:
    """Return the store in `folder`, which is made if it is missing.

    Raises:
        StoreError: it cannot be made, belongs to somebody else, or others can write to it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if not _is_own(status):
            raise StoreError(f"{folder} belongs to user {status.st_uid}, not to this one")
        if _HAS_OWNERS and status.st_mode & 0o077:
            folder.chmod(0o700)
            if folder.stat().st_mode & 0o077:
                raise StoreError(f"{folder} is open to other users, and stays so")
    except OSError as error:
        raise StoreError(f"{folder} cannot be used: {_reason(error)}") from None
    return Store(folder)


_opened = cache(opened)


_HAS_OWNERS = hasattr(os, "geteuid")
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


@cache
def _say_once(message: str) -> None:
    _log.warning("%s", message)


@cache
def _host() -> str:
    """Return the name of this machine as part of a file name: processes of several share a network file system."""
    return re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())[:64] or "host"


def _head(kind: str, key: str, payload: bytes) -> bytes:
    """Return what an entry starts with; kind and key count, so an entry under another name is none."""
    digest = hashlib.sha256(f"{kind}\n{key}\n".encode())
    digest.update(payload)
    return _MAGIC + digest.digest()


def _blocks(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _is_own(status: os.stat_result) -> bool:
    return not _HAS_OWNERS or status.st_uid == os.geteuid()


def _is_own_file(status: os.stat_result) -> bool:
    """Return whether a file is this user's, and nobody else can write to it."""
    writable = _HAS_OWNERS and status.st_mode & 0o022
    return stat.S_ISREG(status.st_mode) and _is_own(status) and not writable


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _make_folder(shard: Path, folder: Path) -> None:
    """Make `shard` inside `folder`, which somebody may have removed since it was opened."""
    try:
        shard.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError:
        opened(folder)
        shard.mkdir(mode=0o700, exist_ok=True)


def _write_file(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)
    with open(descriptor, "wb", buffering=0) as file:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]


def _files(shard: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the files in a shard; those that other processes remove meanwhile are left out."""
    with suppress(OSError), os.scandir(shard) as found:
        for file in found:
            with suppress(OSError):
                yield Path(file.path), file.stat(follow_symlinks=False)


def _entries(shard: Path) -> Iterator[tuple[Path, Entry]]:
    for path, status in _files(shard):
        name = _NAME.fullmatch(path.name)
        if name and name[2].startswith(shard.name) and stat.S_ISREG(status.st_mode):
            yield path, Entry(name[1], name[2], status.st_size, status.st_mtime)


def _remove_unfinished(shard: Path) -> None:
    """Remove the files of writers that are gone: of this host when the process is, of others after a while."""
    for path, status in _files(shard):
        name = _UNFINISHED.fullmatch(path.name)
        if name is None:
            continue
        gone = name[1] == _host() and not _alive(int(name[2]))
        if gone or time.time() - status.st_mtime > _STALE:
            with suppress(OSError):
                path.unlink()


def _alive(process: int) -> bool:
    if not _HAS_OWNERS:
        return True  # sending signal 0 would end a process on Windows
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True

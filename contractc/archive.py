"""Several members in one file: a zip whose comment, at its very end, is the SHA-256 of all bytes before it.

Any zip program opens such a file. Members are stored, not compressed, without extra fields, dates or attributes,
so there is exactly one file for given members; one that is written in any other way is refused.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import zlib
from collections.abc import Mapping

__all__ = ["packed", "read_file", "unpacked"]

MOST_MEMBERS = 10_000
MOST_BYTES = 2**32 - 2**20
"""Bytes of a file: more would need the extra fields of zip64."""

_PREFIX = b"sha256:"
_COMMENT = len(_PREFIX) + 64
_VERSION = 20
_DATE = 0x0021
"""1 January 1980 in the words of zip."""
_UNIX = 3 << 8
_FILE = (stat.S_IFREG | 0o644) << 16
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*){0,3}")


def packed(members: Mapping[str, bytes]) -> bytes:
    """Return the file that holds `members`; equal members in equal order give equal bytes.

    Raises:
        ValueError: a name is no plain path, or the file would be larger than `MOST_BYTES`.
    """
    parts: list[bytes] = []
    index: list[bytes] = []
    at = 0
    if len(members) > MOST_MEMBERS or sum(map(len, members.values())) > MOST_BYTES:
        raise ValueError(f"more than {MOST_MEMBERS} members or {MOST_BYTES} bytes")
    for name, data in members.items():
        if not _NAME.fullmatch(name) or len(name) > 200:
            raise ValueError(f"{name!r:.60} is no name of a member")
        head = _local(name, zlib.crc32(data), len(data))
        parts += [head, data]
        index.append(_central(name, zlib.crc32(data), len(data), at))
        at += len(head) + len(data)
    body = b"".join([*parts, *index, _end(len(members), sum(map(len, index)), at), _PREFIX])
    return body + hashlib.sha256(body).hexdigest().encode()


def unpacked(data: bytes) -> dict[str, memoryview]:
    """Return the members of the file `data` as views of it.

    Raises:
        ValueError: not every byte is as `packed` wrote it.
    """
    tail = _END.size + _COMMENT
    if len(data) < tail or data[-_COMMENT:-64] != _PREFIX or data[-tail:][:4] != b"PK\x05\x06":
        raise ValueError("it is cut short, or no archive of contractc")
    if hashlib.sha256(memoryview(data)[:-64]).hexdigest().encode() != data[-64:]:
        raise ValueError("its SHA-256 is not the one at its end, so it was changed or damaged")
    members: dict[str, memoryview] = {}
    index: list[bytes] = []
    at = 0
    view = memoryview(data)
    while data[at : at + 4] == b"PK\x03\x04" and len(members) < MOST_MEMBERS:
        fields = _LOCAL.unpack_from(data, at) if len(data) - at >= _LOCAL.size else ()
        crc, size, length = (fields[6], fields[8], fields[9]) if fields else (0, 0, 0)
        start = at + _LOCAL.size + length
        name = data[at + _LOCAL.size : start].decode("latin-1")
        if not _NAME.fullmatch(name) or name in members or data[at:start] != _local(name, crc, size):
            raise ValueError(f"member {len(members)} is not written as contractc writes members")
        if start + size > len(data) - tail or zlib.crc32(view[start : start + size]) != crc:
            raise ValueError(f"member {name!r} is damaged")
        members[name] = view[start : start + size]
        index.append(_central(name, crc, size, at))
        at = start + size
    listed = b"".join(index)
    if data[at : len(data) - _COMMENT] != listed + _end(len(members), len(listed), at):
        raise ValueError("its list of members does not fit its members")
    return members


def read_file(path: str | os.PathLike[str], most: int = MOST_BYTES) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        ValueError: it is a symbolic link, no regular file, or has more than `most` bytes: nothing was read.
        OSError: it cannot be opened.
    """
    if os.path.islink(path):
        raise ValueError("it is a symbolic link; name the file it points to")
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0))
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise ValueError("it is no regular file")
    with open(descriptor, "rb") as file:
        if status.st_size > most:
            raise ValueError(f"it has {status.st_size} bytes, more than {most}")
        return file.read(status.st_size)


def _local(name: str, crc: int, size: int) -> bytes:
    encoded = name.encode("latin-1")
    head = _LOCAL.pack(b"PK\x03\x04", _VERSION, 0, 0, 0, _DATE, crc, size, size, len(encoded), 0)
    return head + encoded


def _central(name: str, crc: int, size: int, at: int) -> bytes:
    encoded = name.encode("latin-1")
    head = _CENTRAL.pack(
        b"PK\x01\x02",
        _VERSION | _UNIX,
        _VERSION,
        0,
        0,
        0,
        _DATE,
        crc,
        size,
        size,
        len(encoded),
        *(0,) * 4,
        _FILE,
        at,
    )
    return head + encoded


def _end(count: int, size: int, at: int) -> bytes:
    return _END.pack(b"PK\x05\x06", 0, 0, count, count, size, at, _COMMENT)

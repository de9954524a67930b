"""Archives: one file for given members, readable by any zip program; every other file is refused."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contractc import archive
from contractc.archive import packed, read_file, unpacked
from messages import message_of

MEMBERS = {"manifest.json": b"{}", "numpy/source.py": b"def f(): pass\n" * 3, "empty": b""}


@given(
    st.dictionaries(st.from_regex(r"[a-z_-]{1,9}(/[a-z0-9][a-z0-9.]{0,9}){0,2}", fullmatch=True), st.binary())
)
def test_members_come_back(members: dict[str, bytes]) -> None:
    data = packed(members)
    found = unpacked(data)
    assert list(found) == list(members)
    assert {name: bytes(x) for name, x in found.items()} == members
    assert packed(found) == data  # type: ignore[arg-type]


def test_any_zip_program_reads_it() -> None:
    with zipfile.ZipFile(io.BytesIO(packed(MEMBERS))) as file:
        assert file.testzip() is None
        assert {name: file.read(name) for name in file.namelist()} == MEMBERS
        assert {(i.compress_type, i.extra, i.date_time, i.flag_bits) for i in file.infolist()} == {
            (zipfile.ZIP_STORED, b"", (1980, 1, 1, 0, 0, 0), 0)
        }
        assert file.comment.startswith(b"sha256:")


def test_every_flipped_byte_is_refused() -> None:
    data = bytearray(packed(MEMBERS))
    for at in range(len(data)):
        data[at] ^= 0x10
        with pytest.raises(ValueError, match=r"it is cut short|it was changed"):
            unpacked(bytes(data))
        data[at] ^= 0x10


def test_every_flipped_byte_is_refused_even_under_its_own_digest() -> None:
    data = packed(MEMBERS)
    for at in range(len(data) - 71):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 : -64]
        changed += hashlib.sha256(changed).hexdigest().encode()
        with pytest.raises(ValueError, match=r"cut short|not written as|is damaged|list of members"):
            unpacked(changed)


def test_every_truncation_is_refused() -> None:
    data = packed(MEMBERS)
    for size in range(len(data)):
        with pytest.raises(ValueError, match=r"it is cut short|it was changed"):
            unpacked(data[:size])
    with pytest.raises(ValueError, match="it is cut short"):
        unpacked(data + b"x")


def signed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).hexdigest().encode()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_written_by_another_program_is_refused(method: int) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.comment = b"sha256:" + b"0" * 64
        file.writestr("manifest.json", b"{}" * 99)
    with pytest.raises(ValueError, match="member 0 is not written as contractc writes members"):
        unpacked(signed(buffer.getvalue()[:-64]))


@pytest.mark.parametrize(
    "name", ["../etc", "/etc", "a//b", "a/../b", ".hidden", "a b", "", "a/b/c/d/e", "ä", "x" * 201]
)
def test_names_that_leave_the_archive_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no name of a member"):
        packed({name: b""})


def test_a_name_twice_is_refused() -> None:
    one, two = packed({"a": b"x"}), packed({"a": b"x", "b": b"x"})
    assert message_of(ValueError, unpacked, signed(two.replace(b"b", b"a")[:-64])).startswith("member 1")
    assert unpacked(one).keys() == {"a"}


def test_a_file_is_read_only_if_it_is_one(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_file(path) == b"12345"
    assert message_of(ValueError, read_file, path, 4) == "it has 5 bytes, more than 4"
    (tmp_path / "link").symlink_to(path)
    expected = "it is a symbolic link; name the file it points to"
    assert message_of(ValueError, read_file, tmp_path / "link") == expected
    os.mkfifo(tmp_path / "pipe")
    assert message_of(ValueError, read_file, tmp_path / "pipe") == "it is no regular file"
    assert message_of(ValueError, read_file, tmp_path) == "it is no regular file"


def test_limits_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_BYTES", 10)
    assert message_of(ValueError, packed, {"a": b"x" * 11}) == "more than 10000 members or 10 bytes"

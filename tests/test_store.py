"""The store: what is read is what was written, whatever happens to the files in between."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from contractc import store
from contractc.errors import StoreError
from contractc.options import store_folder
from contractc.store import Store, open_store, opened

ROOT = Path(__file__).resolve().parent.parent
KEY = hashlib.sha256(b"key").hexdigest()
OTHER = KEY[0] + hashlib.sha256(b"other").hexdigest()[1:]
NOBODY = 65534


def key(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


@pytest.fixture
def room(tmp_path: Path) -> Store:
    return opened(tmp_path / "store")


@pytest.fixture(autouse=True)
def _said_nothing_yet() -> Iterator[None]:
    store._say_once.cache_clear()
    store._opened.cache_clear()
    yield
    store._opened.cache_clear()


def files(room: Store) -> list[Path]:
    return sorted(p for p in room.folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("payload", [b"", b"x", bytes(range(256)) * 5000])
def test_read_returns_what_was_written(room: Store, payload: bytes) -> None:
    assert room.read("plan", KEY) is None
    assert room.write("plan", KEY, payload)
    assert room.read("plan", KEY) == payload
    assert room.read("source", KEY) is None
    assert room.write("plan", KEY, b"newer")
    assert room.read("plan", KEY) == b"newer"
    assert room.verify() == []


def test_store_is_for_its_owner_only(room: Store) -> None:
    room.write("plan", KEY, b"x")
    assert {p.stat().st_mode & 0o777 for p in (room.folder, *room.folder.iterdir())} == {0o700}
    assert [p.stat().st_mode & 0o777 for p in files(room)] == [0o600]


def test_an_open_folder_is_closed(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o777)
    (tmp_path / "store").chmod(0o777)
    assert opened(tmp_path / "store").folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("kind", "name"), [("Plan", KEY), ("plan", "../etc"), ("", KEY), ("plan", "abc")])
def test_names_that_could_leave_the_folder_are_refused(room: Store, kind: str, name: str) -> None:
    with pytest.raises(ValueError, match="is no word, or key"):
        room.read(kind, name)
    with pytest.raises(ValueError, match="is no word, or key"):
        room.write(kind, name, b"")


def test_an_entry_cut_short_anywhere_is_a_miss(room: Store) -> None:
    room.write("plan", KEY, b"payload of a plan")
    (file,) = files(room)
    whole = file.read_bytes()
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        assert room.read("plan", KEY) is None, size
    file.write_bytes(whole + b"x")
    assert room.read("plan", KEY) is None
    file.write_bytes(whole)
    assert room.read("plan", KEY) == b"payload of a plan"


def test_an_entry_with_any_byte_changed_is_a_miss(room: Store) -> None:
    room.write("plan", KEY, b"payload of a plan")
    (file,) = files(room)
    whole = bytearray(file.read_bytes())
    for at in range(len(whole)):
        whole[at] ^= 1
        file.write_bytes(whole)
        assert room.read("plan", KEY) is None, at
        whole[at] ^= 1
    assert [e.key for e in room.ls()] == [KEY]
    whole[-1] ^= 1
    file.write_bytes(whole)
    assert [e.key for e in room.verify()] == [KEY]
    assert room.ls() == []


def test_an_entry_under_another_name_is_a_miss(room: Store) -> None:
    room.write("plan", KEY, b"one")
    (file,) = files(room)
    file.with_name(f"plan-{OTHER}").write_bytes(file.read_bytes())
    file.with_name(f"source-{KEY}").write_bytes(file.read_bytes())
    assert room.read("plan", OTHER) is None
    assert room.read("source", KEY) is None


@pytest.mark.parametrize("what", ["link", "folder", "pipe", "writable", "absent"])
def test_what_is_no_file_of_ours_is_a_miss(room: Store, what: str, tmp_path: Path) -> None:
    room.write("plan", KEY, b"payload")
    (file,) = files(room)
    if what == "writable":
        file.chmod(0o666)
    else:
        file.rename(tmp_path / "elsewhere")
    if what == "link":
        file.symlink_to(tmp_path / "elsewhere")
    elif what == "folder":
        file.mkdir()
    elif what == "pipe":
        os.mkfifo(file)
    assert room.read("plan", KEY) is None
    assert room.write("plan", KEY, b"again") == (what != "folder")
    assert room.read("plan", KEY) == (None if what == "folder" else b"again")


def test_the_bound_is_kept_and_the_least_recently_used_go_first(tmp_path: Path) -> None:
    room = Store(opened(tmp_path / "store").folder, limit=16 * 5 * 4096)
    keys = [KEY[0] + key(n)[1:] for n in range(9)]
    for age, name in enumerate(keys[:5]):
        assert room.write("plan", name, b"x" * 100)
        os.utime(room._path("plan", name), (time.time() - 1000 + age,) * 2)
    assert room.read("plan", keys[0]) is not None  # so that it was used last
    for name in keys[5:8]:
        assert room.write("plan", name, b"y" * 4000)
    held = {e.key for e in room.ls()}
    assert held == {keys[0], keys[4], *keys[5:8]}
    assert not room.write("plan", keys[8], b"z" * 5 * 4096)
    assert {e.key for e in room.ls()} == held


def test_every_write_of_many_keeps_the_limit(tmp_path: Path) -> None:
    room = Store(opened(tmp_path / "store").folder, limit=64 * 4096)
    for n in range(200):
        room.write("plan", key(n), b"x" * (n * 37 % 9000))
        assert sum(-(-e.size // 4096) * 4096 for e in room.ls()) <= room.limit
    assert room.read("plan", key(199)) == b"x" * (199 * 37 % 9000)


def test_prune_keeps_what_was_used_last(room: Store) -> None:
    for n in range(6):
        room.write("plan", key(n), b"x")
        os.utime(room._path("plan", key(n)), (1e9 + n,) * 2)
    assert {e.key for e in room.prune(2 * 4096)} == {key(n) for n in range(4)}
    assert [e.key for e in room.ls()] == [key(5), key(4)]
    assert room.prune() == []
    assert {e.key for e in room.prune(0)} == {key(4), key(5)}


def test_what_a_killed_writer_left_is_removed(room: Store) -> None:
    room.write("plan", KEY, b"x")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    shard = room.folder / KEY[0]
    ours = shard / f".{store._host()}-{gone.pid}-{'0' * 16}"
    running = shard / f".{store._host()}-{os.getpid()}-{'1' * 16}"
    abroad = shard / f".elsewhere-{gone.pid}-{'2' * 16}"
    for file in (ours, running, abroad):
        file.write_bytes(b"half")
    room.write("plan", OTHER, b"y")
    assert [p.exists() for p in (ours, running, abroad)] == [False, True, True]
    for file in (running, abroad):
        os.utime(file, (1e9, 1e9))
    room.prune()
    assert [p.exists() for p in (ours, running, abroad)] == [False, False, False]
    assert len(room.ls()) == 2


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_full_or_read_only_disk_stores_nothing_and_says_so_once(
    room: Store, code: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    room.write("plan", KEY, b"before")

    def fails(path: Path, data: bytes) -> None:
        path.write_bytes(data[: len(data) // 2])
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(store, "_write_file", fails)
    with caplog.at_level(logging.WARNING, "contractc"):
        assert not room.write("plan", KEY, b"after")
        assert not room.write("plan", OTHER, b"after")
    assert [r.message for r in caplog.records] == [
        f"the store in {room.folder} cannot be written: {os.strerror(code)}"
    ]
    assert room.read("plan", KEY) == b"before"
    assert len(files(room)) == 1


SMALL_FILES = """
import resource, signal, sys
from pathlib import Path
from contractc.store import opened
room = opened(Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
print(room.write("plan", "0" * 64, b"x" * 9000), room.write("plan", "0" * 63 + "1", b"x" * 900))
"""


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CONTRACTC", "XDG")) and k != "HOME"}
    return subprocess.run(
        [sys.executable, "-c", *arguments],
        env=kept | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )


def test_a_write_that_ends_halfway_leaves_nothing(room: Store) -> None:
    done = python(SMALL_FILES, str(room.folder))
    assert done.stdout == "False True\n"
    assert "cannot be written: File too large" in done.stderr
    assert [e.size for e in room.ls()] == [950]
    assert len(files(room)) == 1


def test_a_read_only_store_is_read(room: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    room.write("plan", KEY, b"x")
    os.utime(room._path("plan", KEY), (1e9, 1e9))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    assert room.read("plan", KEY) == b"x"


def test_a_folder_that_vanished_is_made_again(room: Store) -> None:
    room.folder.rmdir()
    assert room.read("plan", KEY) is None
    assert room.ls() == [] and room.prune() == [] and room.verify() == []
    assert room.write("plan", KEY, b"x")
    assert room.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_belongs_to_somebody_else_is_not_used(
    room: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    room.write("plan", KEY, b"x")
    os.chown(room._path("plan", KEY), NOBODY, NOBODY)
    assert room.read("plan", KEY) is None
    os.chown(room.folder, NOBODY, NOBODY)
    with pytest.raises(StoreError) as caught:
        opened(room.folder)
    assert str(caught.value) == f"{room.folder} belongs to user {NOBODY}, not to this one"
    monkeypatch.setenv("CONTRACTC_STORE", str(room.folder))
    with caplog.at_level(logging.WARNING, "contractc"):
        assert open_store() is None
        assert open_store() is None
    assert [r.message for r in caplog.records] == [f"contractc runs without a store: {caught.value}"]


def test_a_folder_that_is_a_file_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(StoreError, match=r"cannot be used: File exists$"):
        opened(tmp_path / "store")


WHERE = "from contractc.store import open_store; s = open_store(); print(s and s.folder)"


def test_where_the_store_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONTRACTC_STORE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert store_folder() == tmp_path / ".cache" / "contractc"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert store_folder() == tmp_path / "cache" / "contractc"
    monkeypatch.setenv("CONTRACTC_STORE", str(tmp_path / "mine"))
    assert store_folder() == tmp_path / "mine"
    monkeypatch.setenv("CONTRACTC_STORE", "off")
    assert store_folder() is None
    assert open_store() is None


def test_without_a_home_there_is_no_store() -> None:
    code = f"import pathlib\npathlib.Path.home = lambda: pathlib.Path('~')\n{WHERE}\nopen_store()"
    done = python(code)
    assert done.stdout == "None\n"
    assert done.stderr == (
        "contractc runs without a store: there is no home folder; CONTRACTC_STORE can name another place\n"
    )


def test_without_the_variable_the_home_is_that_of_the_user() -> None:
    code = "import os, pwd; from contractc.options import store_folder; print(store_folder()); "
    folder, home = python(code + "print(pwd.getpwuid(os.getuid()).pw_dir)").stdout.splitlines()
    assert folder.startswith(home + "/")


WORKER = """
import hashlib, sys, time
from pathlib import Path
from contractc.store import Store, opened
role, folder, seed, until = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
room = Store(opened(folder).folder, limit=16 * 40 * 4096)

def payload(k, version):
    head = f"{k} {version} ".encode()
    return head + hashlib.sha256(head).digest() * (1 + version % 700)

n = seed
while time.time() < until:
    n += 1
    k = (n * 7919) % 24
    key = hashlib.sha256(str(k).encode()).hexdigest()
    if role == "write":
        room.write("plan", key, payload(k, n))
    else:
        found = room.read("plan", key)
        if found is not None:
            number, version = found.split(b" ", 2)[:2]
            assert int(number) == k and found == payload(k, int(version)), "a mixture"
            print(1)
"""


def test_eight_writers_and_eight_readers_some_of_them_killed(tmp_path: Path) -> None:
    """Every payload that is read is one that was written, whole, under that key; nobody meets an error."""
    folder = tmp_path / "store"
    until = time.time() + 4.0

    def started(role: str, seed: int) -> subprocess.Popen[bytes]:
        code = [sys.executable, "-c", WORKER, role, str(folder), str(seed), str(until)]
        return subprocess.Popen(
            code, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    running = [started("read" if n % 2 else "write", 1000 * n) for n in range(16)]
    killed = []
    seed = 10**6
    while time.time() < until - 1.0:
        time.sleep(0.1)
        victim = running.pop(0)
        victim.send_signal(signal.SIGKILL)
        killed.append(victim)
        running.append(started("read" if len(killed) % 2 == 0 else "write", seed := seed + 1000))
    answers = [p.communicate() for p in running]
    for process, (_, errors) in zip(running, answers, strict=True):
        assert process.returncode == 0, errors.decode()
    for process in killed:
        _, errors = process.communicate()
        assert b"Error" not in errors, errors.decode()
    assert sum(out.count(b"1") for out, _ in answers) > 0
    room = opened(folder)
    assert room.verify() == []
    assert 0 < len(room.ls()) <= 24
    room.prune()
    assert len(files(room)) == len(room.ls()), "an unfinished file is left"

"""Files of arrays: what is written is read back, in the bytes of the published format; nothing else is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from contractc.tensorfiles import COMPLEX, DTYPES, load, packed, save, unpacked

NAMES = [name for name in (*DTYPES, "complex64", "complex128") if name != "bfloat16"]


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=5).filter(lambda name: name != "__metadata__"),
        st.sampled_from(NAMES).flatmap(
            lambda name: arrays_of.arrays(name, arrays_of.array_shapes(min_dims=0, min_side=0, max_side=3))
        ),
        max_size=4,
    ),
    st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=3),
)
def test_arrays_and_metadata_come_back(arrays: dict[str, Any], metadata: dict[str, str]) -> None:
    found, notes = unpacked(packed(arrays, metadata))
    assert notes == metadata
    assert found.keys() == arrays.keys()
    for name, x in arrays.items():
        assert (found[name].dtype, found[name].shape) == (x.dtype, x.shape)
        assert found[name].tobytes() == np.ascontiguousarray(x).tobytes()


def test_bytes_are_those_of_the_format() -> None:
    head = b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    head += b" " * (-len(head) % 8)
    expected = len(head).to_bytes(8, "little") + head + b"\x00\x00\x80\x3f\x00\x00\x00\x40"
    assert packed({"x": np.array([1, 2], np.float32)}) == expected
    (found,) = unpacked(expected)[0].values()
    np.testing.assert_array_equal(found, [1, 2])


def test_complex_numbers_are_pairs_of_real_ones() -> None:
    data = packed({"z": np.array([1 + 2j])})
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    assert header["z"]["dtype"] == "F64"
    assert header["z"]["shape"] == [1, 2]
    assert header["__metadata__"] == {COMPLEX: '["z"]'}


def test_bfloat16_comes_back() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    found, _ = unpacked(packed({"x": np.array([1.5, -2.0], ml_dtypes.bfloat16)}))
    assert found["x"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found["x"].astype(float), [1.5, -2.0])


def test_strides_and_byte_order_do_not_matter() -> None:
    x = np.arange(12, dtype=">i4").reshape(3, 4).T
    found, _ = unpacked(packed({"x": x}))
    np.testing.assert_array_equal(found["x"], x)
    assert packed({"x": x}) == packed({"x": x.astype("<i4", order="C")})


def test_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "factors.safetensors"
    save(path, {"x": np.zeros(3)})
    save(path, {"x": np.ones(3), "y": np.arange(4, dtype=np.int8)}, {"kind": "test"})
    found, notes = load(path)
    np.testing.assert_array_equal(found["x"], 1)
    found["x"][0] = 5  # fresh memory, ours to write
    assert notes == {"kind": "test"}
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_dtype_that_the_format_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="array 'x' is object, which safetensors does not have"):
        packed({"x": np.array([None])})
    with pytest.raises(ValueError, match="are reserved"):
        packed({"__metadata__": np.zeros(1)})


def of(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(**changes: object) -> dict[str, object]:
    return {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]} | changes


HOSTILE = [
    (b"", "its header does not fit"),
    (b"\xff" * 8, "its header does not fit"),
    (of(b"{"), "is JSON"),
    (of(b"[" * 100_000), "is JSON"),
    (of([]), "is a JSON object"),
    (of(b'{"x":1,"x":2}'), "a name is there twice"),
    (of({"x": {}}), "is described by dtype, shape and data_offsets"),
    (of({"x": entry(dtype="F8")}, b"ab"), "has dtype 'F8'"),
    (of({"x": entry(dtype=[1])}, b"ab"), "has dtype"),
    (of({"x": entry(shape=[-2])}, b"ab"), "are no numbers"),
    (of({"x": entry(shape=[True])}, b"ab"), "are no numbers"),
    (of({"x": entry(shape=[3])}, b"ab"), "does not fill its bytes"),
    (of({"x": entry(shape=[2**62, 4])}, b"ab"), "does not fill its bytes"),
    (of({"x": entry()}, b"a"), "ends after the end of the file"),
    (of({"x": entry()}, b"abc"), "the arrays end at 2, but the file at 3"),
    (
        of({"x": entry(), "y": entry(data_offsets=[1, 3])}, b"abc"),
        "starts at 1, but the one before ends at 2",
    ),
    (of({"x": entry(data_offsets=[1, 3])}, b"abc"), "starts at 1"),
    (of({"__metadata__": {"a": 1}}), "are texts by name"),
    (of({"x": entry(), "__metadata__": {COMPLEX: '["x"]'}}, b"ab"), "no array of pairs"),
    (of({"__metadata__": {COMPLEX: '["x"]'}}), "no array of pairs"),
    (of({"__metadata__": {COMPLEX: "{"}}), "is a JSON list of names"),
]


@pytest.mark.parametrize(("data", "message"), HOSTILE)
def test_what_is_no_such_file_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        unpacked(data)
    path = tmp_path / "bad"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="bad: "):
        load(path)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damaged_bytes_are_read_or_refused(data: st.DataObject) -> None:
    good = bytearray(packed({"x": np.arange(3.0), "z": np.ones((1, 2), complex)}, {"a": "b"}))
    at = data.draw(st.integers(0, len(good) - 1))
    good[at] ^= data.draw(st.integers(1, 255))
    try:
        found, _ = unpacked(bytes(good))
    except ValueError:
        return
    assert sum(x.nbytes for x in found.values()) <= len(good)

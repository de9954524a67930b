"""Compiled loops kept as machine code: placed again they give the same bits; what does not fit is refused."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from contractc import serial
from contractc.backends.compiled import numpy_library
from contractc.errors import UnsupportedError
from contractc.programs import Contract, Loop, Program, Value
from contractc.providers import loops
from contractc.providers.loops import ahead, image
from messages import message_of
from test_loops import step_of, steps

pytestmark = [
    pytest.mark.skipif(not loops.installed(), reason="llvmlite is not installed (contractc[fast])"),
    pytest.mark.skipif(image.here() is not None, reason=f"{image.here()}"),
]


def looped(program: Program, step: Contract) -> tuple[Program, Contract]:
    """Return the program of one step with the step as compiled loops."""
    step = replace(step, how=loops.HOW)
    return replace(program, steps=(step,)), step


def product(n: int = 7) -> tuple[Program, Contract]:
    return looped(*step_of([(0, 1), (1, 2)], (0, 2), [n, 5, 4], ["float64"] * 2, "float64"))


@given(steps())
@settings(max_examples=60)
def test_code_placed_again_gives_the_same_bits(drawn: tuple[Program, Contract, list[np.ndarray]]) -> None:
    program, step, arrays = drawn
    if loops.refuses(program, step) is not None:
        return
    program, step = looped(program, step)
    held = ahead.binaries(program)
    assert held, "no machine code could be kept"
    (built,) = ahead.built(program, held).values()
    library = numpy_library(program, step)
    arrays = [np.ascontiguousarray(x) for x in arrays]
    again = loops.compiled(program, step, library, built=built)(*arrays)
    first = loops.compiled(program, step, library)(*arrays)
    assert again.dtype == first.dtype and again.shape == first.shape
    assert again.tobytes() == first.tobytes()


def test_steps_inside_of_loops_keep_their_own_code() -> None:
    outside, step = product()
    inside, other = product(3)
    loop = Loop(outs=(Value(11, (0, 2), "float64"),), inputs=(0, 1), body=inside, modes=())
    program = replace(outside, steps=(loop, step))
    found = ahead.built(program, ahead.binaries(program))
    marked = ahead.marked(program)
    assert isinstance(marked.steps[0], Loop)
    names = [s.how for s in (*marked.steps[0].body.steps, marked.steps[1]) if isinstance(s, Contract)]
    assert names == ["loops built 0", "loops built 1"] == list(found)
    for name, (where, one) in zip(names, ((inside, other), (outside, step)), strict=True):
        n = where.extents[0]
        a, b = np.arange(n * 5.0).reshape(n, 5), np.arange(20.0).reshape(5, 4)
        run = loops.compiled(where, one, numpy_library(where, one), built=found[name])
        np.testing.assert_array_equal(run(a, b), a @ b)


def changed(held: dict[str, bytes], **fields: Any) -> dict[str, bytes]:
    index = serial.loads(held["loops.json"].decode(), (ahead.Codes, ahead.Code))
    return held | {"loops.json": serial.dumps(replace(index, **fields)).encode()}


def test_code_for_another_processor_or_contractc_is_refused() -> None:
    program, _ = product()
    held = ahead.binaries(program)
    assert message_of(
        UnsupportedError, ahead.built, program, changed(held, features=("avx9000", "sse2"))
    ) == ("its machine code needs a processor with avx9000")
    assert message_of(UnsupportedError, ahead.built, program, changed(held, convention=0)) == (
        "its machine code is called as another contractc calls it"
    )


def test_code_that_does_not_fit_its_steps_is_refused() -> None:
    program, _ = product()
    held = ahead.binaries(program)
    (code,) = serial.loads(held["loops.json"].decode(), (ahead.Codes, ahead.Code)).steps
    for wrong, message in (
        ((code, code), "machine code for 2 steps; the program has 1"),
        ((replace(code, arguments=9),), "machine code of step 0 takes 9 numbers"),
        ((replace(code, extents=(((0, 2),),)),), "machine code of step 0 asks for axis 2 of operand 0"),
        ((replace(code, workspace=-1),), "machine code of step 0 asks for -1 bytes"),
        ((replace(code, member="gone.o"),), "there is no gone.o"),
    ):
        assert message_of(ValueError, ahead.built, program, changed(held, steps=wrong)) == message


def test_what_is_no_object_file_is_refused() -> None:
    code = loops.variant(*product()).native.code
    function = loops.variant(*product()).native.function
    assert image.placed(code, function).address
    assert message_of(UnsupportedError, image.placed, b"", function).startswith(
        "its machine code is not an object file as expected"
    )
    for end in range(0, len(code), 97):
        with pytest.raises(UnsupportedError, match="not an object file as expected"):
            image.placed(code[:end], function)
    assert message_of(UnsupportedError, image.placed, code, "other") == (
        "its machine code is not an object file as expected: there is no function 'other'"
    )
    arm = code[:18] + struct.pack("<H", 183) + code[20:]
    assert message_of(UnsupportedError, image.placed, arm, function) == (
        "its machine code is not an object file as expected: another kind of file"
    )


def test_code_that_calls_a_library_is_refused() -> None:
    native = loops.variant(*product()).native
    code = bytearray(native.code)
    start, count = struct.unpack_from("<Q", code, 40)[0], struct.unpack_from("<H", code, 60)[0]
    for k in range(count):
        kind, offset, size = (
            struct.unpack_from(f, code, start + 64 * k + at)[0]
            for f, at in (("<I", 4), ("<Q", 24), ("<Q", 32))
        )
        if kind == 2:
            for at in range(offset, offset + size, 24):
                struct.pack_into("<H", code, at + 6, 0)  # the section of every symbol: somewhere else
    assert message_of(UnsupportedError, image.placed, bytes(code), native.function) == (
        "its machine code is not an object file as expected: it calls another library"
    )

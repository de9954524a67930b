"""Offsets in a workspace: blocks alive together do not overlap, results are never in it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from contractc.programs import Contract, Program, Reshape, Step, Value
from contractc.workspace import ALIGNMENT, Block, alive, planned

BLOCKS = st.dictionaries(
    st.integers(0, 40),
    st.builds(
        lambda size, first, length: Block(size, first, first + length),
        st.integers(1, 5000),
        st.integers(0, 12),
        st.integers(0, 6),
    ),
    max_size=14,
)


def rounded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


@given(BLOCKS)
def test_planned_keeps_apart_what_is_alive_together(blocks: dict[int, Block]) -> None:
    size, offsets = planned(blocks)
    assert offsets.keys() == blocks.keys()
    for k, one in blocks.items():
        assert offsets[k] % ALIGNMENT == 0 and offsets[k] + one.size <= size
        for j, two in blocks.items():
            if j != k and one.first <= two.last and two.first <= one.last:
                assert offsets[k] + one.size <= offsets[j] or offsets[j] + two.size <= offsets[k]
    peaks = [sum(rounded(b.size) for b in blocks.values() if b.first <= t <= b.last) for t in range(20)]
    assert max(peaks, default=0) <= size <= sum(rounded(b.size) for b in blocks.values())


def test_planned_uses_memory_again_in_a_chain() -> None:
    chain = {k: Block(1024, k, k + 1) for k in range(10)}
    size, offsets = planned(chain)
    assert size == 2048 and set(offsets.values()) == {0, 1024}


def test_alive_ends_with_the_last_view_and_leaves_results_out() -> None:
    def value(number: int, modes: tuple[int, ...] = (0, 1)) -> Value:
        return Value(number, modes, "float32")

    steps: tuple[Step, ...] = (
        Contract(value(2), (0, 1), how="tile"),
        Contract(value(3, (1, 0)), (2,)),  # a view of %2
        Contract(value(4), (0, 1), how="tile"),
        Contract(value(5), (3, 4), how="tile"),
        Contract(value(6), (5, 4), how="library"),
        Reshape(value(7, (2,)), (5,)),  # a result that shares memory with %5
    )
    program = Program((value(0), value(1)), steps, (6, 7), (2, 3, 6))
    assert not program.faults()
    found = alive(program, lambda step: isinstance(step, Contract) and step.how == "tile")
    assert found == {2: (0, 3), 4: (2, 4)}

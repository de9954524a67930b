"""A value and its gradients as one program, finished as a whole, then cut in two behind the value.

Orders of intermediates suit all that reads them, on the way there and on the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from contractc.backends.steps.tasks import is_view
from contractc.cost import bandwidth
from contractc.lower import finished, fusers
from contractc.lower.backward import backward
from contractc.lower.exponents import guard_range, unguarded
from contractc.lower.fuse import library_seconds
from contractc.lower.memory import owners
from contractc.lower.pack import SMALL, pack
from contractc.lower.passes import PASSES
from contractc.lower.pieces import LARGE, spilled, taken_in_pieces
from contractc.lower.seconds import program_seconds, program_size
from contractc.machine import DEFAULT_MACHINE, Target
from contractc.programs import COPY, Contract, Fused, Program, Reshape, Step, Value
from contractc.providers import providers
from contractc.providers.memory import MOST

TINY = 2.0e-5
"""Predicted seconds of a step, in the mean, below which steps that follow each other may be worth one call."""

Packing = Callable[[Program], Program]

GAIN_APART = 1.03
"""How many times faster value and gradients finished apart have to be by prediction where steps are not tiny: layers
predicted to be 1.2 and 1.3 times faster were so 1.3 and 1.5 times, one predicted to be as fast was as fast."""

GAIN_PIECES = 1.22
"""How many times faster value and gradients in pieces have to be by prediction: layers predicted to be 1.23 and 1.27
times faster took 1.13 times less and hold less at a time, those predicted to be 1.7 times faster 1.4 times less."""


def joined(program: Program, wanted: Sequence[int], packing: Packing) -> Program | None:
    """Return the program of the one value of `program`, then of its gradients by the inputs `wanted`.

    Its last input is the cotangent. None where there is no rule, or nothing is wanted that the value is made of.

    Args:
        packing: what is done with the copies that matrix products read.
    """
    program = packing(program)
    (result,) = program.results
    back = backward(program, result, wanted)
    if back is None or not back.results:
        return None
    for transform in (*PASSES, packing):
        back = transform(back)
    return replace(
        program,
        inputs=(*program.inputs, back.inputs[-1]),
        steps=(*program.steps, *back.steps),
        results=(result, *back.results),
    )


@dataclass(frozen=True, slots=True)
class Parts:
    """A value, its gradients, and the predicted seconds of both: `forward` gives what `back` reads beside the value."""

    forward: Program
    back: Program
    seconds: float


def parts_for_numpy(program: Program, wanted: Sequence[int], quick: bool = False) -> Parts | None:
    """Return `program` and its gradients by the inputs `wanted` for NumPy, or None where `joined` gives none.

    Of these the one of the least predicted seconds: all finished as one program, copies of matrix products as steps of
    their own or not; the value and the gradients each finished by itself, so that steps of one of them may be one call;
    and the two parts with what lies between steps taken in pieces that the caches hold, also where it is too large
    for its memory to be given out again. Exponents that guard the range of the value are put back for the rule of the
    gradients, and taken out of both together where they are needed.

    Args:
        quick: only tiny steps are looked at as one call: large ones take half a second, too long for each plan of many.
    """
    target = Target()
    # One call for several steps might stand on both sides of the cut.
    kernels = [replace(kernel, several=None) for kernel in fusers(target)]
    bare = unguarded(program)
    guard = as_it_is if bare is program else guard_range
    plain = joined(bare, wanted, as_it_is)
    if plain is None:
        return None
    plain, copied = guard(plain), joined(bare, wanted, pack)
    forms = [plain]
    if copied is not None and any(map(_is_copy, copied.steps)):
        forms.append(guard(copied))
    wholes = [finished(form, target, kernels=kernels) for form in forms]
    best = min(
        [Parts(*cut(whole), _seconds(whole)) for whole in wholes],
        key=lambda parts: parts.seconds,
    )
    if any(map(spilled, wholes)):
        found = _in_pieces(program, wanted)
        if found is not None and (not reusable(best) or GAIN_PIECES * found.seconds < best.seconds):
            return found
    tiny = best.seconds < TINY * len(best.forward.steps + best.back.steps)
    if tiny or not quick:
        apart = _each_finished(plain)
        if apart.seconds * (1.0 if tiny else GAIN_APART) < _seconds(best.forward, best.back):
            return apart
    return best


def reusable(parts: Parts) -> bool:
    """Return whether what lies between operands and results is small enough for its memory to be given out again.

    Pages from the system, which every step of a training would wait for, take back what the NumPy program gains.
    """
    for part, given_away in ((parts.forward, parts.forward.results[:1]), (parts.back, parts.back.results)):
        owner = owners(part)
        outside = {v.number for v in (*part.inputs, *(c.value for c in part.constants))}
        outside |= {owner.get(i, i) for i in given_away}
        between = [v for n, v in part.values().items() if owner.get(n, n) not in outside]
        if any(part.bytes_of(v) > MOST // 2 for v in between):
            return False
    return True


def _each_finished(both: Program) -> Parts:
    """Return value and gradients, each finished by itself: steps of one part may be one call."""
    forward, back = cut(both)
    forward, back = (
        finished(part, Target(), ordered=part is forward, kernels=fusers(Target()))
        for part in (forward, back)
    )
    return Parts(forward, back, _seconds(forward, back))


def _in_pieces(program: Program, wanted: Sequence[int]) -> Parts | None:
    """Return value and gradients, each with its steps over one mode in pieces; None where neither can be."""
    both = joined(program, wanted, as_it_is)
    if both is None:
        return None
    forward, back = (taken_in_pieces(part, _for_a_piece) for part in cut(both, pieces=True))
    if not any(isinstance(step, Fused) for step in (*forward.steps, *back.steps)):
        return None
    forward, back = (finished(part, Target(), ordered=part is forward) for part in (forward, back))
    return Parts(forward, back, _seconds(forward, back))


def _seconds(*programs: Program) -> float:
    return sum([program_seconds(program) + spilled(program) for program in programs])


def _for_a_piece(body: Program) -> Program:
    return finished(body, Target(), ordered=True)


def cut(both: Program, pieces: bool = False) -> tuple[Program, Program]:
    """Return what makes the first result of `both`, giving then what the rest reads of it, and the rest.

    The inputs of the rest are the inputs it reads, what was kept for it, and the last input of `both`. What inputs give
    by looking at them or copying them, or in less time than keeping it takes, is not kept but made again.

    Args:
        pieces: the rest is done in pieces, so large products may be made again faster than they come from memory.

    Before:  (%0, %1, %5) -> %3 = contract %0 %1,  %4 = contract %3,  %6 = contract %3 %5,  return %4 %6
    After:   (%0, %1) -> %3 = contract %0 %1,  %4 = contract %3,  return %4 %3
             (%3, %5) -> %6 = contract %3 %5,  return %6
    """
    first, *others = both.results
    known = both.values()
    there = _needed(both, {first})
    forward = [step for step in both.steps if there.issuperset(v.number for v in step.outs)]
    rest = [step for step in both.steps if not there.issuperset(v.number for v in step.outs)]
    given = {v.number for v in (*both.inputs, *(c.value for c in both.constants))}
    ready = set(given)
    again: list[Step] = []
    for step in forward:
        missing = sum([both.bytes_of(known[i]) for i in step.inputs if i not in ready])
        if (not missing and _cheap(both, step, known)) or (
            pieces and missing < LARGE and _faster_than_kept(both, step)
        ):
            again.append(step)
            ready |= {v.number for v in step.outs}
    first_read = dict.fromkeys(others, len(rest))
    for place, step in reversed([*enumerate(rest)]):
        first_read |= dict.fromkeys(step.inputs, place)
    before: list[list[Step]] = [[] for _ in range(len(rest) + 1)]
    for step in reversed(again):
        places = [first_read[v.number] for v in step.outs if v.number in first_read]
        if places:  # just before it is read: that much less is in memory at a time
            before[min(places)].insert(0, step)
            for i in step.inputs:
                first_read[i] = min(*places, first_read.get(i, len(rest)))
    rest = [step for place, own in enumerate(before) for step in (*own, *rest[place : place + 1])]
    read = first_read.keys()
    made = {v.number for step in rest for v in step.outs}
    kept = sorted(read - given - made)
    operands = [v for v in both.inputs[:-1] if v.number in read]
    ahead = replace(both, inputs=both.inputs[:-1], steps=tuple(forward), results=(first, *kept))
    behind = replace(
        both,
        inputs=(*operands, *(known[i] for i in kept), both.inputs[-1]),
        constants=tuple(c for c in both.constants if c.value.number in read),
        steps=tuple(rest),
        results=tuple(others),
    )
    return ahead, behind


def _cheap(program: Program, step: Step, known: Mapping[int, Value]) -> bool:
    """Return whether making what `step` makes takes less than the 3 us of keeping it, or no arithmetic at all."""
    if isinstance(step, Reshape):
        return True
    if not isinstance(step, Contract):
        return False
    if is_view(program, step):  # or a copy
        return True
    modes = {m for i in step.inputs for m in known[i].modes}
    return program_size(program, tuple(modes)) <= SMALL


def _faster_than_kept(program: Program, step: Step) -> bool:
    """Return whether making what `step` makes takes less than sending it to memory and getting it from there.

    Where memory would come from the system anew each time it is taken to.
    """
    size = sum([program.bytes_of(v) for v in step.outs])
    if size < LARGE or not isinstance(step, Contract):
        return False
    if size > MOST // 2:
        return True
    return library_seconds(program, step, DEFAULT_MACHINE, providers()) < 4 * size / bandwidth(
        DEFAULT_MACHINE, 2**30
    )


def as_it_is(program: Program) -> Program:
    """Return `program`."""
    return program


def _is_copy(step: Step) -> bool:
    return isinstance(step, Contract) and step.how == COPY


def _needed(program: Program, results: set[int]) -> set[int]:
    """Return the values that `results` are made of, themselves included."""
    found = set(results)
    for step in reversed(program.steps):
        if not found.isdisjoint(v.number for v in step.outs):
            found |= {v.number for v in step.outs} | set(step.inputs)
    return found

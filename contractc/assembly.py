"""A program, its constants and a target become an Executable.

A bundle is loaded through here, so what only planning and lowering need is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from contractc.backends import backend_named
from contractc.errors import UnsupportedError
from contractc.executable import Executable
from contractc.machine import Target
from contractc.plans import Plan
from contractc.programs import Program
from contractc.providers.loops import postponed
from contractc.recent import MISS


def executable_of(
    program: Program,
    plan: Plan,
    target: Target,
    constants: Sequence[Any],
    exponent: bool,
    saver: Callable[..., str],
    remarks: tuple[str, ...] = (),
    binaries: Mapping[str, bytes] | None = None,
    ahead: bool = False,
) -> Executable:
    """Return `program` with the arrays of its constants as code for `target`.

    Args:
        exponent: the program returns the exponent of each result behind it.
        saver: what writes executables to a bundle; it is above this floor.
        remarks: what `explain` is to say beside what the steps run as.
        binaries: compiled code that the backend loads instead of making it.
        ahead: the code is made ahead of the calls, so `explain` tells where compiled loops would have helped.

    Raises:
        UnsupportedError: the backend cannot run the program, with the reason.
    """
    backend = backend_named(target.backend)
    reason = backend.refuses(program)
    if reason is not None:
        raise UnsupportedError(f"backend '{target.backend}' cannot run this: {reason}\n{program}")
    if binaries is None:
        elsewhere = target.backend == "torch" and _elsewhere(program, target, plan.seconds)
        compiled = backend.compile(postponed(program) if elsewhere else program, constants)
    else:
        compiled = backend.from_binaries(program, constants, binaries, target.device)
    run = compiled.run
    if hasattr(backend, "joint"):
        from contractc.hosted import REMARK, hosted, worth_hosting
        from contractc.training import with_joint_backward

        if worth_hosting(program, target, plan.seconds):
            run = hosted(run, program, plan.seconds, constants, backend, ahead)
            remarks = tuple(dict.fromkeys((*remarks, REMARK)))
        run = with_joint_backward(run, program, plan.seconds, constants, backend, target)
    run = run if program.inputs else _with_fresh_results(run)
    notes = compiled.notes
    if ahead:
        from contractc.lower import loops_missed

        missed = loops_missed(program, target)
        notes = tuple(
            note + missed.get(step.outs[0].number, "")
            for step, note in zip(program.steps, notes, strict=True)
        )
    if hasattr(backend, "remark") and binaries is None:
        remarks = tuple(dict.fromkeys((*remarks, backend.remark(target))))
    return Executable(
        program,
        plan,
        target,
        compiled.source,
        notes,
        _with_int_exponents(run) if exponent else run,
        backend.as_array,
        len(program.inputs),
        lambda: _considered(program, target),
        tuple(constants),
        exponent,
        remarks,
        lambda: _peak(program, target, plan.seconds, ahead),
        saver,
        executable_of,
    )


def _peak(program: Program, target: Target, seconds: float, ahead: bool) -> int:
    """Return the bytes that `program` has in memory at most, or 0 where extents are known only when it runs.

    Results without operands are copies of what was made of the constants.
    Of a program for torch that runs as the NumPy program they are that program's, which nobody watches.
    """
    from contractc.lower.memory import peak_bytes
    from contractc.providers.threads import allowed

    if target.device != "cpu" or program.dynamic:
        return 0
    if target.backend == "torch" and _elsewhere(program, target, seconds):
        from contractc.hosted import NUMPY, for_numpy

        program, target = for_numpy(program, ahead), NUMPY
    copies = sum([program.bytes_of(program.value(i)) for i in program.results] if not program.inputs else ())
    return peak_bytes(program, target, allowed()) + copies


def _elsewhere(program: Program, target: Target, seconds: float) -> bool:
    """Return whether `program` for torch runs as the NumPy program where nobody watches, with torch's threads as now.

    Torch's own compiled loops are then hardly ever needed.
    """
    from contractc.hosted import alone, worth_hosting

    if not worth_hosting(program, target, seconds):
        return False
    backend: Any = backend_named(target.backend)
    return not alone(program, seconds) or bool(backend.hosted.threads() == 1)


def _considered(program: Program, target: Target) -> dict[int, str]:
    """Return the ways to compute each step that were compared, by the number of what it makes."""
    if target.backend != "numpy":
        return {}
    from contractc.lower.seconds import compared
    from contractc.providers.known import this_machine

    return compared(program, this_machine())


def _with_fresh_results(run: Callable[..., Any]) -> Callable[..., Any]:
    """Return `run` giving copies: without operands every result is a constant, or a view of one."""

    def copied(x: Any) -> Any:
        copy = getattr(x, "clone", None) or getattr(x, "copy", None)
        return x if copy is None else copy()

    def run_and_copy() -> Any:
        results = run()
        return tuple(map(copied, results)) if isinstance(results, tuple) else copied(results)

    return run_and_copy


def _with_int_exponents(run: Callable[..., Any]) -> Callable[..., Any]:
    """Return `run` giving (mantissa, exponent) with a Python int for the exponent; pairs for several outputs."""

    def run_and_convert(*operands: Any) -> Any:
        results = run(*operands)
        if results is MISS:
            return MISS
        pairs = [(results[k], int(results[k + 1])) for k in range(0, len(results), 2)]
        return pairs[0] if len(pairs) == 1 else tuple(pairs)

    return run_and_convert

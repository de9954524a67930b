"""The predicted seconds of a program on a GPU, of its value or with gradients: what is asked before one is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from contractc.backends.steps.tasks import is_view
from contractc.backends.triton.backward import with_gradients
from contractc.backends.triton.choose import fused_by_price, seconds_of
from contractc.backends.triton.gpus import gpu_model
from contractc.backends.triton.tasks import Task, aten_seconds, task_of
from contractc.dtypes import itemsize
from contractc.machine import Gpu, Target
from contractc.programs import Broadcast, Contract, Loop, Program, Step


def predicted_seconds(program: Program, target: Target, wanted: Sequence[int] = ()) -> float:
    """Return the predicted seconds of one call of `program` on the GPU of `target`, with its gradients by `wanted`.

    For the torch backend everything is torch's, pair by pair. What depends on constants only has run before.

    Args:
        wanted: inputs, as numbers of values.
    """
    kernels, device = target.backend == "triton", gpu_model(target.device)
    fused = fused_by_price(program, device, set(), wanted) if kernels else program
    return _seconds(fused, device, wanted, kernels)


def _seconds(program: Program, device: Gpu, wanted: Sequence[int], kernels: bool) -> float:
    constant = {c.value.number for c in program.constants}
    recorded = set(wanted)
    total = 0.0
    for step in program.steps:
        made = {v.number for v in step.outs}
        if constant.issuperset(step.inputs):
            constant |= made
            continue
        total += _step_seconds(program, step, device, recorded, kernels)
        if not recorded.isdisjoint(step.inputs):
            recorded |= made
    return total


def _step_seconds(program: Program, step: Step, device: Gpu, recorded: set[int], kernels: bool) -> float:
    """Return the seconds of a step, and of its gradients by the inputs that are `recorded`, as autograd takes them."""
    if isinstance(step, Loop):
        slices = prod([program.extents[m] for m in step.modes])
        return slices * _seconds(step.body, device, sorted(recorded.intersection(step.inputs)), kernels)
    if isinstance(step, Broadcast):
        times = 1 + any(i in recorded for i in step.inputs)
        size = prod([program.extents[m] for m in step.out.modes]) * itemsize(step.out.dtype)
        return times * (device.launch + size / device.bandwidth)
    if not isinstance(step, Contract) or is_view(program, step):
        return 0.0
    task = task_of(step, program)
    back = [k for k, i in enumerate(step.inputs) if i in recorded]
    return sum([_task_seconds(t, device, kernels) for t in with_gradients(task, back)])


def _task_seconds(task: Task, device: Gpu, kernels: bool) -> float:
    if kernels:
        return seconds_of(task, device)
    problem, _ = task.problem(task.in_order())
    return aten_seconds(task, problem, device)

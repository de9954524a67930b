"""Slices as replays, with a recorder that stands in for CUDA graphs: no GPU takes part."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("triton", reason="triton is not installed")

import torch

from contractc.backends.torch import operations
from contractc.backends.triton.graphs import LEAST_SLICES, Replayed, sliced, sliced_over
from contractc.notation import Term


class Recorder:
    """Records a call as a CUDA graph does: nothing is computed until a replay, which writes into the same memory."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, call: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        self.recorded += 1
        results = call()
        listed = results if isinstance(results, tuple) else (results,)
        for x in listed:
            x.fill_(float("nan"))  # recording computes nothing

        def replay() -> None:
            self.replayed += 1
            again = call()
            for here, x in zip(listed, again if isinstance(again, tuple) else (again,), strict=True):
                here.copy_(x)

        return replay, results


def arguments(count: int) -> tuple[list[Any], list[Term], dict[int, int], operations.Sum]:
    """Return what a loop over `count` slices of ij,jk->ik, and of ij->j, is told: sliced along i."""
    x, y = torch.randn(count, 3, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    outs = [(0, 2), (1,)]
    dtypes = [(torch.float64, torch.float64)] * 2
    return [x, y], [(0, 1), (1, 2)], {0: count}, operations.Sum(outs, dtypes, True, torch.add)


def body(x: Any, y: Any) -> Any:
    return x @ y, x.clone()


def test_slices_are_recorded_once_and_replayed() -> None:
    given = arguments(LEAST_SLICES)
    record = Recorder()
    found = sliced(body, *given, record=record)
    x, y = given[0]
    torch.testing.assert_close(found, (x @ y, x.sum(0)))
    torch.testing.assert_close(found, operations.sliced(body, *given))
    assert (record.recorded, record.replayed) == (1, LEAST_SLICES - 1)


def test_few_slices_and_those_of_autograd_are_launched() -> None:
    record = Recorder()
    given = arguments(LEAST_SLICES - 1)
    torch.testing.assert_close(sliced(body, *given, record=record), operations.sliced(body, *given))
    given = arguments(LEAST_SLICES)
    given[0][1].requires_grad_()
    (gradient,) = torch.autograd.grad(sliced(body, *given, record=record)[0].sum(), [given[0][1]])
    torch.testing.assert_close(gradient, given[0][0].sum(0)[:, None].expand(3, 5))
    assert record.recorded == 0


def test_what_does_not_vary_is_not_copied() -> None:
    seen: list[Any] = []

    def spy(x: Any, y: Any) -> Any:
        seen.append((x.data_ptr(), y.data_ptr()))
        return x @ y

    def given(x: Any) -> Any:
        return x

    x, y = torch.randn(8, 3), torch.randn(3, 5)
    same = Replayed(given, (True,), lambda call: (lambda: None, call()))
    torch.testing.assert_close(torch.stack([same(x[k]) for k in range(8)]), x)
    run = Replayed(spy, (True, False), Recorder())
    results = [run(x[k], y) for k in range(8)]
    torch.testing.assert_close(torch.stack(results), x @ y)
    assert {b for _, b in seen} == {y.data_ptr()} and len({a for a, _ in seen}) == 1
    assert not {a for a, _ in seen} & {x[k].data_ptr() for k in range(8)}
    assert len({r.data_ptr() for r in results}) == 8


@pytest.mark.parametrize("devices", [1, 2, 3, 9])
def test_devices_compute_ranges_of_slices(devices: int) -> None:
    x, y = torch.randn(7, 2, 3, dtype=torch.float64), torch.randn(3, 2, 5, dtype=torch.float64)
    sizes: list[int] = []

    def body(x: Any, y: Any) -> Any:
        sizes.append(threading.get_ident())
        return x @ y, x @ y

    outs, dtypes = [(3, 0), (3,)], [(torch.float32, torch.float64)] * 2
    total = operations.Sum(outs, dtypes, True, torch.add)
    given = [x, y], [(0, 1, 2), (2, 1, 3)], {0: 7, 1: 2}, total
    kept, summed = sliced_over(("cpu",) * devices, body, *given)
    expected = torch.einsum("iab,bac->ci", x, y)
    assert kept.dtype == summed.dtype == torch.float32 and len(sizes) == 14
    torch.testing.assert_close(kept.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(summed.double(), expected.sum(1), rtol=1e-6, atol=1e-6)


def test_gradients_do_not_leave_the_device() -> None:
    given = arguments(6)
    given[0][0].requires_grad_()
    found = sliced_over(("cpu", "cpu"), body, *given)[0]
    assert found.requires_grad

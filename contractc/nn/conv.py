"""Convolutions whose kernel is held as factors: a chain of small convolutions by torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from contractc.errors import OperandError
from contractc.formats import Factorized
from contractc.nn.planned import accepted, biased
from contractc.nn.weights import Weight, built, copied, decomposed, fresh, of_kind

CONVOLUTIONS: tuple[Callable[..., torch.Tensor], ...] = (F.conv1d, F.conv2d, F.conv3d)
FORMATS = ("cp", "tucker", "tt")


class FactorizedConv(nn.Module):
    """A convolution over N = 1, 2 or 3 axes, its kernel [in, k1, ..., kN, out] held as factors.

    CP: a 1x1 convolution to the rank, one convolution of each channel along each axis, a 1x1 convolution to the output
    (Lebedev et al. 2015). Tucker: 1x1, the core with its axis factors, 1x1 (Kim et al. 2016). TT: 1x1, a convolution
    along each axis from rank to rank, 1x1.

    Args:
        kernel: k1, ..., kN; stride, padding, dilation: a number, or one for each axis.
        format: "cp", "tucker" or "tt".
        rank: of all modes, or for Tucker one for each of in, k1, ..., kN, out.
        dropout, lasso: see `Weight`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Sequence[int],
        *,
        format: str = "cp",
        rank: int | Sequence[int] = 16,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        bias: bool = True,
        dropout: float = 0.0,
        lasso: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if isinstance(kernel, int):
            raise OperandError(
                f"the kernel is a number for each axis, such as {(kernel, kernel)}, not {kernel}"
            )
        _checked(format, len(kernel))
        fan = in_channels
        for n in kernel:
            fan *= n
        split = tuple((n,) for n in (in_channels, *kernel, out_channels))
        operand = fresh(format, split, rank, std=(3 * fan) ** -0.5, device=device, dtype=dtype)
        values = torch.zeros(out_channels, device=device, dtype=dtype) if bias else None
        self._build(Weight(operand, dropout=dropout, lasso=lasso), values, format, stride, padding, dilation)

    def _build(
        self,
        weight: Weight,
        bias: torch.Tensor | None,
        format: str,
        stride: int | Sequence[int],
        padding: int | Sequence[int],
        dilation: int | Sequence[int],
    ) -> None:
        axes = len(weight.layout.axes) - 2
        self.weight, self.format = weight, format
        self.bias = copied(bias)
        self.stride, self.padding, self.dilation = (_each(v, axes) for v in (stride, padding, dilation))

    @classmethod
    def from_layer(
        cls,
        layer: nn.Conv1d | nn.Conv2d | nn.Conv3d,
        *,
        format: str = "cp",
        rank: int | Sequence[int] | None = None,
        tolerance: float | None = None,
    ) -> FactorizedConv:
        """Return a convolution near a dense one: of this rank, or within this relative error of its kernel.

        Raises:
            OperandError: it has groups, pads with something else than zeros, or pads by name.
        """
        of_kind(layer, nn.Conv1d, nn.Conv2d, nn.Conv3d)
        if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            raise OperandError(
                "a convolution with groups, or padding by name or not by zeros, has no factorized form"
            )
        kernel = layer.weight.detach().movedim(0, -1)
        _checked(format, kernel.ndim - 2)
        operand = decomposed(kernel, format, tuple((n,) for n in kernel.shape), rank, tolerance)
        return built(cls, operand, layer.bias, format, layer.stride, layer.padding, layer.dilation)

    def kernel(self) -> torch.Tensor:
        """Return the dense kernel [out, in, k1, ..., kN] as torch.nn has it."""
        dense: torch.Tensor = Factorized(self.weight.layout, tuple(self.weight())).to_dense()
        return dense.movedim(-1, 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [b, out, ...] for x [b, in, ...]."""
        factors = self.weight()
        x = accepted(x, factors[0].dtype)
        ways = {"cp": self._cp, "tucker": self._tucker, "tt": self._tt}
        y = ways[self.format](x, factors)
        bias = None if self.bias is None else self.bias.reshape(-1, *[1] * len(self.stride))
        return biased(y, bias)

    def _cp(self, x: torch.Tensor, factors: Sequence[torch.Tensor]) -> torch.Tensor:
        weights, first, *axes, last = factors
        x = self._pointwise(x, first.t())
        for k, factor in enumerate(axes):
            x = self._along(x, factor.t()[:, None], k, groups=len(weights))
        return self._pointwise(x, last * weights)

    def _tucker(self, x: torch.Tensor, factors: Sequence[torch.Tensor]) -> torch.Tensor:
        core, first, *axes, last = factors
        for k, factor in enumerate(axes):
            core = torch.tensordot(factor, core, ([1], [k + 1])).movedim(0, k + 1)
        x = self._pointwise(x, first.t())
        function = CONVOLUTIONS[len(self.stride) - 1]
        x = function(x, core.movedim(-1, 0), None, self.stride, self.padding, self.dilation)
        return self._pointwise(x, last)

    def _tt(self, x: torch.Tensor, factors: Sequence[torch.Tensor]) -> torch.Tensor:
        first, *axes, last = factors
        x = self._pointwise(x, first[0].t())
        for k, core in enumerate(axes):
            x = self._along(x, core.permute(2, 0, 1), k)
        return self._pointwise(x, last[..., 0].t())

    def _pointwise(self, x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        """Return x [b, n, ...] with its channels multiplied by matrix [m, n]."""
        axes = len(self.stride)
        return CONVOLUTIONS[axes - 1](x, matrix.reshape(*matrix.shape, *[1] * axes))

    def _along(self, x: torch.Tensor, kernel: torch.Tensor, axis: int, groups: int = 1) -> torch.Tensor:
        """Return x convolved along one axis with kernel [out, in, k]."""
        axes = len(self.stride)
        shape = [*kernel.shape[:2], *(kernel.shape[2] if k == axis else 1 for k in range(axes))]
        stride, padding, dilation = (
            [values[axis] if k == axis else neutral for k in range(axes)]
            for values, neutral in ((self.stride, 1), (self.padding, 0), (self.dilation, 1))
        )
        function = CONVOLUTIONS[axes - 1]
        return function(x, kernel.reshape(shape), None, stride, padding, dilation, groups)


def _checked(format: str, axes: int) -> None:
    if format not in FORMATS:
        raise OperandError(f"format={format!r:.40} is none of {', '.join(FORMATS)}")
    if not 1 <= axes <= len(CONVOLUTIONS):
        raise OperandError(f"a convolution is over 1, 2 or 3 axes, not {axes}")


def _each(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    """Return a number for each axis."""
    if isinstance(value, str):
        raise OperandError(f"padding is given in numbers, not as {value!r:.20}")
    values = (value,) * axes if isinstance(value, int) else tuple(value)
    if len(values) != axes:
        raise OperandError(f"{len(values)} numbers for {axes} axes")
    return values

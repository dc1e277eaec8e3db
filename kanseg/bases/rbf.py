"""Gaussian radial basis functions on equally spaced centers (FastKAN)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kanseg.bases.base import (
    BASES,
    Basis,
    TableRange,
    ValuesAndDerivatives,
    aligned,
    change_of_basis,
    check_at_least,
    check_range,
    constant_dtype,
    finite_part,
    write_buffer,
)


@BASES.register("rbf")
class GaussianRBF(Basis):
    """exp(-((u - g_j) / h)^2) with centers g_j at equal distances h on [lo, hi] (Li 2024,
    arXiv:2405.06721).

    Values and gradients are 0 at infinity and NaN at NaN.

    Args:
        channels: C.
        grid_size: K >= 2 centers.
        grid_range: (lo, hi), lo < hi.
        domain: identity by default; FastKAN uses instance_norm (images) or layer_norm (vectors).
    """

    has_grid = True
    has_table = True
    per_channel = ("start", "step")

    def __init__(
        self,
        channels: int,
        *,
        grid_size: int = 8,
        grid_range: tuple[float, float] = (-2.0, 2.0),
        domain: str = "identity",
    ):
        check_at_least("grid_size", grid_size, 2)
        lo, hi = check_range(grid_range)
        super().__init__(channels, grid_size, domain)
        self.grid_range = (lo, hi)
        self.register_buffer("start", torch.empty(channels, dtype=constant_dtype()))
        self.register_buffer("step", torch.empty(channels, dtype=constant_dtype()))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        lo, hi = self.grid_range
        step = (hi - lo) / (self.num_functions - 1)
        ones = torch.ones(self.channels, dtype=torch.float64, device="cpu")
        write_buffer(self, "start", lo * ones)
        write_buffer(self, "step", step * ones)

    def grid_limits(self) -> tuple[Tensor, Tensor]:
        return self.start, self.start + self.step * (self.num_functions - 1)

    @torch.no_grad()
    def table_range(self) -> TableRange | None:
        start, step = self.start, self.step
        if start.is_meta or type(start) not in (Tensor, nn.Parameter):
            return None
        if ((start == start[0]) & (step == step[0])).all():
            start, step = start[:1], step[:1]
        # Four steps from its center a function is exp(-16) = 1e-7; the fourth derivative of
        # exp(-t^2) is at most 12.
        lo, hi = start - 4 * step, start + step * (self.num_functions + 3)
        return TableRange(lo, hi, 4 * (self.num_functions + 7))

    @torch.no_grad()
    def update_grid(self, samples: Tensor) -> Tensor:
        """Place the centers at equal distances from the 1 % to the 99 % quantile of the samples."""
        old = self.functions(samples.to(self.start).unsqueeze(0))[0]
        ends = torch.tensor([0.01, 0.99], dtype=torch.float64, device=samples.device)
        lo, hi = torch.quantile(samples.double(), ends, dim=1)
        write_buffer(self, "start", lo)
        write_buffer(self, "step", (hi - lo).clamp_min(1e-2) / (self.num_functions - 1))
        return change_of_basis(old, self.functions(samples.to(self.start).unsqueeze(0))[0])

    def values_and_derivatives(self, u: Tensor, derivatives: bool = False) -> ValuesAndDerivatives:
        start, step = aligned(self.start, u), aligned(self.step, u)
        position = finite_part((u - start) / step)
        scale = -2 / step
        for j in range(self.num_functions):
            distance = position - j
            value = (distance * distance).neg_().exp_()
            if derivatives:
                yield value, (distance * value).mul_(scale)
            else:
                yield value, None

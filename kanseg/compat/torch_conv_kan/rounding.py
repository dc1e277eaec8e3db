"""torch-conv-kan's order of operations, for networks that amplify rounding errors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kanseg.bases.base import constant_dtype
from kanseg.compat.torch_conv_kan.bases import _LegacyBasis
from kanseg.compat.torch_conv_kan.layer import _LegacyLayer
from kanseg.compat.torch_conv_kan.variants import Options


class CoxDeBoor(_LegacyBasis):
    """B-splines by the recursion over their order (de Boor, A Practical Guide to Splines, ch. IX):
    (B, C, *S) -> (B, C, G + k, *S).
    """

    def __init__(self, grid_size: int, spline_order: int, grid_range: tuple[float, float]):
        super().__init__(grid_size + spline_order)
        self.spline_order, self.grid_size, self.grid_range = spline_order, grid_size, grid_range
        knots = torch.empty(grid_size + 2 * spline_order + 1, dtype=constant_dtype())
        self.register_buffer("knots", knots, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reset the knots to their initial values."""
        lo, hi = self.grid_range
        margin = (hi - lo) / self.grid_size * self.spline_order
        ends = lo - margin, hi + margin
        self.knots.copy_(
            torch.linspace(*ends, len(self.knots), dtype=self.knots.dtype, device="cpu")
        )

    def values(self, u: Tensor) -> Tensor:
        t = self.knots.to(u.dtype).reshape(-1, *[1] * (u.dim() - 2))
        u = u.unsqueeze(2)
        splines = ((u >= t[:-1]) & (u < t[1:])).to(u.dtype)
        for k in range(1, self.spline_order + 1):
            rising = (u - t[: -k - 1]) / (t[k:-1] - t[: -k - 1]) * splines[:, :, :-1]
            falling = (t[k + 1 :] - u) / (t[k + 1 :] - t[1:-k]) * splines[:, :, 1:]
            splines = rising + falling
        return splines


class ChebyshevByAngle(_LegacyBasis):
    """cos(n acos(u)), n = 0..D: (B, C, *S) -> (B, C, D + 1, *S).

    u is clamped to 1e-7 from +-1, where the derivative of acos is infinite.
    """

    def values(self, u: Tensor) -> Tensor:
        angle = torch.acos(u.clamp(-1 + 1e-7, 1 - 1e-7)).unsqueeze(2)
        n = torch.arange(self.num_functions, device=u.device).reshape(-1, *[1] * (u.dim() - 2))
        return torch.cos(angle * n)


class GaussiansAtCenters(_LegacyBasis):
    """exp(-((u - g_j) / h)^2) with stored centers g_j: (B, C, *S) -> (B, C, K, *S)."""

    def __init__(self, grid_size: int, grid_range: tuple[float, float]):
        super().__init__(grid_size)
        self.spacing = (grid_range[1] - grid_range[0]) / (grid_size - 1)
        self.grid_range = grid_range
        centers = torch.empty(grid_size, dtype=constant_dtype())
        self.register_buffer("centers", centers, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reset the centers to their initial values."""
        centers = self.centers
        centers.copy_(
            torch.linspace(*self.grid_range, len(centers), dtype=centers.dtype, device="cpu")
        )

    def values(self, u: Tensor) -> Tensor:
        centers = self.centers.to(u.dtype).reshape(-1, *[1] * (u.dim() - 2))
        return torch.exp(-(((u.unsqueeze(2) - centers) / self.spacing) ** 2))


# family -> (options, number of functions) -> basis
_ORIGINAL: dict[str, Callable[[Options, int], _LegacyBasis]] = {
    "KAN": lambda options, count: CoxDeBoor(
        options["grid_size"], options["spline_order"], options["grid_range"]
    ),
    "FastKAN": lambda options, count: GaussiansAtCenters(
        options["grid_size"], options["grid_range"]
    ),
    "KACN": lambda options, count: ChebyshevByAngle(count),
}


def use_original_rounding(module: nn.Module) -> nn.Module:
    """Compute the B-splines (KAN), Gaussians (FastKAN) and Chebyshev polynomials (KACN) of all
    layers in `module` with torch-conv-kan's order of operations.

    kanseg's own formulas differ by a few units in the last place (2e-6 in the output of a layer).
    Some networks amplify this: with random weights, on noise of 32x32 and 64x64 pixels, ukacnet_18,
    u2kacnet_small, u2kanet_small, fast_ukanet_18 and fast_u2kanet_small turn an error of 1e-6 in
    the input into 0.04 to 4 in the output, so that two implementations only agree if each operation
    rounds alike. The last bit still differs with groups, which are one convolution in kanseg and
    several in torch-conv-kan, and for weights that were padded to a higher degree. Compare such
    networks in double precision (`module.double()`).

    The original order needs more memory and, for KACN, has poor gradients at the ends of the
    domain. The state dict and the layers of other families do not change.

    Returns:
        `module`, changed in place.
    """
    for layer in module.modules():
        if isinstance(layer, _LegacyLayer) and layer.family in _ORIGINAL:
            layer.original_basis = _ORIGINAL[layer.family](layer.options, layer.basis.num_functions)
            layer.original_basis.to(layer.basis_conv.weight.device)
    return module

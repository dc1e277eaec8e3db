"""The one place where a basis meets a convolution or a matrix."""

from __future__ import annotations

from torch import Tensor, nn

from kanseg.bases import Basis


def basis_convolution(x: Tensor, basis: Basis, conv: nn.Module) -> Tensor:
    """conv(basis(x)): (B, C, *S) -> (B, O, *S').

    The expanded tensor is channel-major (index c * K + j), so that a grouped convolution reads whole channels. Zero padding is
    zero in the expanded tensor: outside the picture no function is active. Without the border treatment every function would
    need its value at an invented pixel.
    """
    return conv(basis(x).flatten(1, 2))

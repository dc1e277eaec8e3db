"""Locally connected KAN layer: a convolution with separate functions at every position."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kanseg.layers.kan_conv import KANConv1d


class KANLocal2d(nn.Module):
    """A separate `KANLinear` for each image patch, y_o(p) = sum_i phi_oip(x_i(p)) at position p,
    computed in one grouped operation.

    (B, in_channels, H, W) -> (B, out_channels, H', W') with H' = (H - kernel_size) // stride + 1,
    as for a convolution without padding: pixels beyond the last complete patch are not used.

    Memory: P = H' * W' positions with F = in_channels * kernel_size^2 values each have
    P * out_channels * F * (K + 1) weights (K without a base branch), P times those of a
    convolution. A forward pass keeps the P * F values of the patches, not their K functions.

    Args:
        in_channels, out_channels, kernel_size, stride: as in `torch.nn.Conv2d`, for square patches;
            `stride` is the kernel size by default.
        image_size: (H, W) of the images.
        bias: add a learned value per output and position.
        basis, share, base_activation, dropout, noise, dropout_at, basis_options: as in `KANLinear`.

    Raises:
        ValueError: a kernel that does not fit into the image, an image of another shape, the domain
            "instance_norm" (a position has one value per channel), or an error of `KANConv1d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int | None = None,
        *,
        image_size: Sequence[int],
        bias: bool = False,
        basis: str = "bspline",
        share: str | int = "edge",
        base_activation: str | Callable[[], nn.Module] | None = "silu",
        dropout: float = 0.0,
        noise: float = 0.0,
        dropout_at: str = "input",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **basis_options: object,
    ):
        super().__init__()
        stride = kernel_size if stride is None else stride
        if stride < 1 or not 1 <= kernel_size <= min(image_size):
            raise ValueError(
                f"patches must fit into the image, got kernel_size={kernel_size},"
                f" stride={stride}, image_size={tuple(image_size)}"
            )
        if basis_options.get("domain") == "instance_norm":
            raise ValueError(
                "domain='instance_norm' needs more than one value per channel, and a position has"
                " only one; use 'layer_norm'"
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride = kernel_size, stride
        self.image_size = tuple(image_size)
        self.output_size = tuple((side - kernel_size) // stride + 1 for side in image_size)
        positions = self.output_size[0] * self.output_size[1]
        # Positions are the groups of a convolution over a single pixel: each has its own functions.
        self.functions = KANConv1d(
            positions * in_channels * kernel_size**2,
            positions * out_channels,
            1,
            groups=positions,
            basis=basis,
            share=share,
            position=None if share == "edge" else "before_conv",
            base_activation=base_activation,
            norm=None,
            activation=None,
            dropout=dropout,
            noise=noise,
            dropout_at=dropout_at,
            device=device,
            dtype=dtype,
            **basis_options,
        )
        self.bias = None
        if bias:
            zeros = torch.zeros(out_channels, *self.output_size, device=device, dtype=dtype)
            self.bias = nn.Parameter(zeros)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Reset the layer to its initial state, as `KANConv2d.reset_parameters` does."""
        self.functions.reset_parameters()
        if self.bias is not None:
            self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H', W')."""
        if x.shape[1:] != (self.in_channels, *self.image_size):
            height, width = self.image_size
            raise ValueError(
                f"KANLocal2d expects images (B, {self.in_channels}, {height}, {width}), got shape"
                f" {tuple(x.shape)}"
            )
        y = self.functions(self.patches(x).flatten(1).unsqueeze(2))
        y = y.reshape(len(x), *self.output_size, self.out_channels).permute(0, 3, 1, 2)
        if self.bias is None:
            return y
        return y + self.bias

    def patches(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, H' * W', C * kernel_size^2), each patch in the order (C, row,
        column).
        """
        size, stride = self.kernel_size, self.stride
        patches = x.unfold(2, size, stride).unfold(3, size, stride)  # (B, C, H', W', row, column)
        return patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size},"
            f" stride={self.stride}, image_size={self.image_size}"
        )

"""The locally connected KAN layer: a convolution whose functions differ from place to place."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kanseg.layers.kan_conv import KANConv1d


class KANLocal2d(nn.Module):
    """Patches that share nothing: y_o(p) = sum_i phi_oip(x_i(p)), one `KANLinear` of its own at
    each place p, all in one grouped operation.

    (B, in_channels, H, W) -> (B, out_channels, H', W') with H' = (H - kernel_size) // stride + 1,
    as of a convolution without padding: rows and columns beyond the last whole patch are not seen.

    Memory: P = H' * W' places with F = in_channels * kernel_size^2 values each hold P *
    out_channels * F * (K + 1) weights (K without a base branch), P times those of a convolution; a
    forward pass keeps the P * F values of each image's patches, not their K functions.

    Args:
        in_channels, out_channels, kernel_size, stride: as of `torch.nn.Conv2d`, of square patches;
        `stride` is the kernel size by default.
        image_size: (H, W) of the images, which the number of places follows from.
        bias: add a number per output and place.
        basis, share, base_activation, dropout, noise, dropout_at, basis_options: as of `KANLinear`.

    Raises:
        ValueError: a kernel that does not fit into the image, an image of another shape, the
            domain "instance_norm", which needs more
            than one value of a channel; whatever `KANConv1d` raises.
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
                "domain='instance_norm' needs more than one value of a channel, and a place has"
                " one; use 'layer_norm'"
            )
        self.in_channels, self.out_channels, self.kernel_size, self.stride = (
            in_channels,
            out_channels,
            kernel_size,
            stride,
        )
        self.image_size = tuple(image_size)
        self.output_size = tuple((side - kernel_size) // stride + 1 for side in image_size)
        places = self.output_size[0] * self.output_size[1]
        # Places are groups of a convolution over one pixel: a matrix, or rather functions, of its
        # own for each.
        self.functions = KANConv1d(
            places * in_channels * kernel_size**2,
            places * out_channels,
            1,
            groups=places,
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
        self.bias = (
            nn.Parameter(torch.zeros(out_channels, *self.output_size, device=device, dtype=dtype))
            if bias
            else None
        )

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Put the layer back to what it was when it was built, as of `KANConv2d`."""
        self.functions.reset_parameters()
        if self.bias is not None:
            self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H', W')."""
        if x.shape[1:] != (self.in_channels, *self.image_size):
            raise ValueError(
                f"KANLocal2d expects images (B, {self.in_channels},"
                f" {', '.join(map(str, self.image_size))}), got shape {tuple(x.shape)}"
            )
        y = self.functions(self.patches(x).flatten(1).unsqueeze(2))
        y = y.reshape(len(x), *self.output_size, self.out_channels).permute(0, 3, 1, 2)
        return y if self.bias is None else y + self.bias

    def patches(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, H' * W', C * kernel_size^2), a patch's entries in the order (C, row,
        column).
        """
        size, stride = self.kernel_size, self.stride
        return (
            x.unfold(2, size, stride)
            .unfold(3, size, stride)
            .permute(0, 2, 3, 1, 4, 5)
            .flatten(3)
            .flatten(1, 2)
        )

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size},"
            f" stride={self.stride}, image_size={self.image_size}"
        )

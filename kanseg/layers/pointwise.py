"""What the kernels of pointwise functions have in common: the pieces of a tensor that are computed
together, and the memory that they use in turn.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import torch
from torch import Tensor, nn

# Entries of x that are computed together. On a CPU all buffers of a piece then stay in its cache;
# fresh memory for whole tensors would cost more than the arithmetic.
PIECE = 1 << 17
PIECE_ACCELERATOR = 1 << 24


def pieces(*tensors: Tensor) -> Iterator[tuple[slice, list[tuple[Tensor, ...]]]]:
    """Channels, and for these the pieces of tensors (B, C, *S) of one shape, views that belong
    together; a piece has about `PIECE` entries for each thread.
    """
    x = tensors[0]
    limit = PIECE_ACCELERATOR
    if x.device.type == "cpu":
        limit = PIECE * torch.get_num_threads()
    batch, channels = x.shape[:2]
    size = max(x.numel() // (batch * channels), 1)
    channel_step = max(1, min(channels, limit // size))
    sample_step = max(1, limit // (size * channels))
    for start in range(0, channels, channel_step):
        c = slice(start, start + channel_step)
        parts = tensors
        if channel_step < channels:
            parts = [each[:, c] for each in tensors]
        yield c, list(zip(*(each.split(sample_step) for each in parts), strict=True))


class Scratch:
    """Buffers that the pieces of a tensor use in turn, in its memory format.

    On a CPU each thread keeps its buffers from call to call: a megabyte or so, whose pages would
    otherwise be fetched from the system and given back at every call, at the cost of the arithmetic
    itself.
    """

    def __init__(self, x: Tensor):
        self.dtype = torch.promote_types(x.dtype, torch.float32)
        # A fake tensor stands on a CPU too: what it leaves behind would be no memory.
        self._kept = x.device.type == "cpu" and type(x) in (Tensor, nn.Parameter)
        self._buffers: dict[tuple[str, torch.Size], Tensor] = {}

    def __call__(self, name: str, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """An uninitialized tensor of the shape of `like`; the same memory each time."""
        key = name, like.shape
        if key not in self._buffers:
            strides = torch.empty_like(like, device="meta").stride()
            buffer = self._new(name, like.numel(), dtype or self.dtype, like.device)
            self._buffers[key] = buffer.as_strided(like.shape, strides)
        return self._buffers[key]

    def _new(self, name: str, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        if not self._kept or size > PIECE * torch.get_num_threads():
            return torch.empty(size, dtype=dtype, device=device)
        kept: dict[str, Tensor] = vars(_of_thread)
        key = f"{name} {dtype}"
        if key not in kept or len(kept[key]) < size:
            with torch.inference_mode(False):
                kept[key] = torch.empty(size, dtype=dtype, device=device)
        return kept[key][:size]


_of_thread = threading.local()


def aligned_rows(values: Tensor, ndim: int) -> Tensor:
    """Numbers (C or 1,) lined up with x (B, C, *S) of `ndim` axes."""
    return values.reshape(-1, *[1] * (ndim - 2))


def columns(values: Tensor, channels: slice, ndim: int) -> list[Tensor]:
    """The columns of values (C or 1, N), each lined up with x (B, C, *S) of `ndim` axes."""
    rows = values if len(values) == 1 else values[channels]
    return [aligned_rows(column, ndim) for column in rows.unbind(1)]

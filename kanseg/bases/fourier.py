"""Sines and cosines (Fourier KAN)."""

from __future__ import annotations

import torch
from torch import Tensor

from kanseg.bases.base import BASES, Basis, ValuesAndDerivatives, check_at_least


@BASES.register("fourier")
class Fourier(Basis):
    """cos u, sin u, cos 2u, sin 2u, ..., cos Nu, sin Nu: K = 2N functions in [-1, 1] of period 2 pi
    (Xu et al. 2024, arXiv:2406.01034).

    Computes one cosine and one sine, and the multiples by the addition theorems (DLMF 4.21.2). In
    float32 this is more accurate than cos(n u), whose argument is rounded, and faster.

    Args:
        channels: C.
        num_frequencies: N >= 1.
        domain: identity by default.
    """

    def __init__(self, channels: int, *, num_frequencies: int = 4, domain: str = "identity"):
        super().__init__(
            channels, 2 * check_at_least("num_frequencies", num_frequencies, 1), domain
        )
        self.num_frequencies = num_frequencies

    def values_and_derivatives(self, u: Tensor, derivatives: bool = False) -> ValuesAndDerivatives:
        cosine, sine = first_cosine, first_sine = torch.cos(u), torch.sin(u)
        for n in range(1, self.num_frequencies + 1):
            if n > 1:
                cosine, sine = (
                    torch.addcmul(cosine * first_cosine, sine, first_sine, value=-1),
                    torch.addcmul(sine * first_cosine, cosine, first_sine),
                )
            if derivatives:
                yield cosine, sine * -n
                yield sine, cosine * n
            else:
                yield cosine, None
                yield sine, None

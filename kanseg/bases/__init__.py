"""Univariate bases, (B, C, *S) -> (B, C, K, *S), with one file per family."""

import inspect

from kanseg.bases import (
    bernstein,
    bspline,
    fourier,
    hermite,
    polynomials,
    rational,
    rbf,
    relu,
    wavelet,
)
from kanseg.bases.base import BASES, Basis
from kanseg.utils.registry import nearest

__all__ = [
    "BASES",
    "Basis",
    "bernstein",
    "bspline",
    "create_basis",
    "fourier",
    "hermite",
    "list_basis_options",
    "polynomials",
    "rational",
    "rbf",
    "relu",
    "wavelet",
]


def create_basis(name: str, channels: int, **options: object) -> Basis:
    """Create a basis by name.

    Raises:
        ValueError: unknown name, an option that the basis does not have, or a value out of its
            range.
    """
    known = list_basis_options(name)
    for option in options:
        if option not in known:
            raise ValueError(
                f"basis {name!r} has no option {option!r}{nearest(option, known)} (it has:"
                f" {', '.join(known)})"
            )
    return BASES[name](channels, **options)


def list_basis_options(name: str) -> list[str]:
    """Names of the options of a basis."""
    parameters = inspect.signature(BASES[name].__init__).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]

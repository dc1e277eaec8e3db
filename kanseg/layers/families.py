"""Layer names from the literature: KANConv1d, 2d and 3d with a given basis."""

from functools import partial

from kanseg.layers.kan_conv import KANConv1d, KANConv2d, KANConv3d


def _family(**options: object) -> tuple[partial, partial, partial]:
    return (
        partial(KANConv1d, **options),
        partial(KANConv2d, **options),
        partial(KANConv3d, **options),
    )


KALNConv1d, KALNConv2d, KALNConv3d = _family(basis="legendre")
FastKANConv1d, FastKANConv2d, FastKANConv3d = _family(basis="rbf", domain="instance_norm")
KACNConv1d, KACNConv2d, KACNConv3d = _family(basis="chebyshev")
KAGNConv1d, KAGNConv2d, KAGNConv3d = _family(basis="gram")
WavKANConv1d, WavKANConv2d, WavKANConv3d = _family(basis="wavelet")
KAJNConv1d, KAJNConv2d, KAJNConv3d = _family(basis="jacobi")
KABNConv1d, KABNConv2d, KABNConv3d = _family(basis="bernstein")
ReLUKANConv1d, ReLUKANConv2d, ReLUKANConv3d = _family(basis="relu")
BottleneckKAGNConv1d, BottleneckKAGNConv2d, BottleneckKAGNConv3d = _family(
    basis="gram", inner_channels=0.25
)
BottleneckReLUKANConv1d, BottleneckReLUKANConv2d, BottleneckReLUKANConv3d = _family(
    basis="relu", inner_channels=0.25
)

_CONVS = [name for name in dir() if name.endswith(("1d", "2d", "3d"))]
FAMILIES = tuple(sorted(name for name in _CONVS if not name.startswith("KANConv")))
__all__ = [*FAMILIES, "FAMILIES"]

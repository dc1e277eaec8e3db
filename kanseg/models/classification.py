"""Classification networks: an encoder and a head, or for images of one size any map to vectors and
a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from kanseg.encoders import Encoder
from kanseg.utils.hub import _Pretrained
from kanseg.utils.registry import Registry

Linear = Callable[[int, int], nn.Module]
# Networks without an encoder: (in_channels, classes, *, image_size, ...) -> FlatClassifier
CLASSIFIERS: Registry[Callable[..., FlatClassifier]] = Registry("classifier")


def _mlp(in_features: int, classes: int, linear: Linear, dropout: float) -> list[nn.Module]:
    """VGG's head, with two hidden layers of 1024."""
    return [
        nn.Linear(in_features, 1024),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(1024, 1024),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(1024, classes),
    ]


# name -> (in_features, classes, linear, dropout) -> modules for vectors; `linear` makes a KAN layer
# with the basis of the network
HEADS: dict[str, Callable[[int, int, Linear, float], list[nn.Module]]] = {
    "linear": lambda in_features, classes, linear, dropout: [
        nn.Dropout(dropout),
        nn.Linear(in_features, classes),
    ],
    "kan": lambda in_features, classes, linear, dropout: [
        nn.Dropout(dropout),
        linear(in_features, classes),
    ],
    "hidden_kan": lambda in_features, classes, linear, dropout: [
        linear(in_features, 512),
        nn.Dropout(dropout),
        nn.Linear(512, classes),
    ],
    "mlp": _mlp,
}


class ClassificationModel(nn.Module, _Pretrained):
    """encoder -> pooling of the deepest feature -> head: (B, C, H, W) -> raw logits (B, classes),
    any H and W.

    Args:
        encoder: image -> list of features, with `out_channels`.
        classes: number of logits.
        linear: (in_features, out_features) -> KAN layer, for heads with KAN layers.
        head: "linear", "kan" (one KAN layer), "hidden_kan" (a KAN layer with 512 outputs, then a
            linear one) or "mlp" (VGG's head with two hidden layers of 1024).
        head_dropout: dropout probability before the last layer.
        pool_size: the deepest feature is averaged to pool_size x pool_size pixels.

    Raises:
        ValueError: fewer than one class, an unknown head.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        classes: int,
        linear: Linear,
        head: str = "linear",
        head_dropout: float = 0.0,
        pool_size: int = 1,
    ):
        super().__init__()
        if classes < 1:
            raise ValueError(f"classes must be at least 1, got {classes}")
        if pool_size < 1:
            raise ValueError(f"pool_size must be at least 1, got {pool_size}")
        if head not in HEADS:
            raise ValueError(f"head must be one of {', '.join(HEADS)}, got {head!r}")
        self.encoder = encoder
        features = encoder.out_channels[-1] * pool_size**2
        pool = [nn.AdaptiveAvgPool2d(pool_size), nn.Flatten()]
        self.classification_head = nn.Sequential(
            *pool, *HEADS[head](features, classes, linear, head_dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classification_head(self.encoder(x)[-1])


class FlatClassifier(nn.Module, _Pretrained):
    """front -> head, for images of one size: (B, in_channels, H, W) -> raw logits (B, classes).

    Args:
        front: images -> vectors (B, F).
        head: vectors -> logits; a `KAN`, or any module.
        in_channels, image_size: of the images, (H, W).
    """

    def __init__(
        self, front: nn.Module, head: nn.Module, *, in_channels: int, image_size: Sequence[int]
    ):
        super().__init__()
        self.front, self.head = front, head
        self.in_channels, self.image_size = in_channels, tuple(image_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.vectors(x))

    def vectors(self, x: Tensor) -> Tensor:
        """The input of the head, (B, F); ValueError for images of another shape."""
        if x.shape[1:] != (self.in_channels, *self.image_size):
            expected = ", ".join(map(str, (self.in_channels, *self.image_size)))
            raise ValueError(
                f"the network was built for images (B, {expected}) (in_channels, image_size), got"
                f" shape {tuple(x.shape)}"
            )
        return self.front(x)

    def features(self, x: Tensor) -> list[Tensor]:
        """The input of the head and the outputs of its layers, ending with the logits: [(B, F), (B,
        ...), ..., (B, classes)].
        """
        vectors = self.vectors(x)
        if hasattr(self.head, "features"):
            return [vectors, *self.head.features(vectors)]
        return [vectors, self.head(vectors)]


def checked_image_size(image_size: Sequence[int] | None, classes: int) -> tuple[int, int]:
    """Return image_size as (H, W).

    Raises:
        ValueError: image_size is not two positive integers, or fewer than one class.
    """
    if classes < 1:
        raise ValueError(f"classes must be at least 1, got {classes}")
    sides: tuple = ()
    if isinstance(image_size, Sequence) and not isinstance(image_size, str):
        sides = tuple(image_size)
    if len(sides) != 2 or not all(is_positive_integer(side) for side in sides):
        raise ValueError(
            "this network is built for images of one size: give image_size, height and width"
            f" such as [28, 28], got {image_size!r}"
        )
    return sides


def is_positive_integer(value: object) -> bool:
    """True for an integer of at least 1; booleans do not count."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1

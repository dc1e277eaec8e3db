"""A small variational autoencoder (Kingma and Welling 2014, arXiv:1312.6114), and the classifier
that reads its latent mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanseg.bases.base import at_least_float32, without_autocast
from kanseg.encoders import check_size, scaled
from kanseg.layers.blocks import Conv, kan_conv
from kanseg.layers.regularization import penalty
from kanseg.models.classification import CLASSIFIERS, FlatClassifier, Linear, checked_image_size
from kanseg.models.flat import KAN

# Of the Gaussian around a reconstruction. With 1 few latent values are worth their divergence: a
# KAN on detached features of the 8x8 digits of scikit-learn, pixels from -1 to 1, reached an
# accuracy of .85 with 1, .94 with 0.3 and .92 with 0.1 (one run each).
DEVIATION = 0.3


def _gaussian(reconstruction: Tensor, x: Tensor, deviation: float) -> Tensor:
    return (
        0.5 * ((reconstruction - x) / deviation).square()
        + 0.5 * math.log(2 * math.pi)
        + math.log(deviation)
    )


def _bernoulli(reconstruction: Tensor, x: Tensor, deviation: float) -> Tensor:
    if not torch.compiler.is_compiling() and x.numel() and (x.amin() < 0 or x.amax() > 1):
        raise ValueError(
            f"likelihood 'bernoulli' needs pixels from 0 to 1, got {float(x.amin()):g} to"
            f" {float(x.amax()):g}; use 'gaussian'"
        )
    return F.binary_cross_entropy_with_logits(reconstruction, x, reduction="none")


# name -> (reconstruction, images, deviation) -> minus the log likelihood of each value
LIKELIHOODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gaussian": _gaussian,
    "bernoulli": _bernoulli,
}


def vae_loss(
    reconstruction: Tensor,
    x: Tensor,
    mean: Tensor,
    log_variance: Tensor,
    *,
    likelihood: str = "gaussian",
    deviation: float = DEVIATION,
) -> Tensor:
    """Minus the evidence lower bound of each image, in nats: (B,), in float32 at least (Kingma
    and Welling 2014, eq. 10).

    Args:
        reconstruction: (B, C, H, W); the mean of a Gaussian for "gaussian", logits for "bernoulli".
        x: (B, C, H, W) images, for "bernoulli" from 0 to 1.
        mean, log_variance: (B, L) of the latent Gaussian.
        likelihood: "gaussian" or "bernoulli".
        deviation: of the Gaussian.

    Raises:
        ValueError: pixels outside 0 to 1 for "bernoulli".
    """
    with without_autocast(x):
        reconstruction, x, mean, log_variance = (
            at_least_float32(each) for each in (reconstruction, x, mean, log_variance)
        )
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)
        return (
            LIKELIHOODS[likelihood](reconstruction, x, deviation).flatten(1).sum(dim=1) + divergence
        )


class VAE(nn.Module):
    """Two convolutions of stride 2 and a linear layer to the latent space, and the way back: (B, C,
    H, W) -> reconstruction, mean, log variance.

    The latent vector is drawn in training and is the mean in evaluation. A training forward leaves
    minus the evidence lower bound of the batch, averaged over images and values (nats a value),
    in `elbo`; `Penalty(model, {"elbo": 1.0})` and `training.penalty` add it to the loss. Averaged
    so, it has the size of a cross entropy for images of any size.

    Args:
        in_channels, image_size: of the images, (H, W).
        latent_dim: number of latent values L.
        width: channels of the first convolution, half those of the second.
        likelihood: of the pixels, "gaussian" (for normalized images) or "bernoulli" (for pixels
            from 0 to 1).
        deviation: of the Gaussian; the smaller, the more a good reconstruction counts against the
            divergence of the latent vector.
        conv: the convolutions, (in_channels, out_channels, kernel_size, stride=, padding=) ->
            module; plain ones by default.

    Raises:
        ValueError: an unknown likelihood, a latent_dim or width below 1, a deviation that is not
            positive.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: Sequence[int],
        latent_dim: int = 16,
        width: float = 16,
        *,
        likelihood: str = "gaussian",
        deviation: float = DEVIATION,
        conv: Conv | None = None,
    ):
        super().__init__()
        check_size(width, 2)
        if latent_dim < 1 or likelihood not in LIKELIHOODS:
            raise ValueError(
                f"latent_dim must be at least 1 and likelihood one of {', '.join(LIKELIHOODS)}, got"
                f" {latent_dim}, {likelihood!r}"
            )
        if not deviation > 0:
            raise ValueError(f"deviation must be positive, got {deviation}")
        conv = kan_conv(basis="none") if conv is None else conv
        self.latent_dim, self.likelihood, self.deviation = latent_dim, likelihood, deviation
        half, quarter = (tuple(-(-side // n) for side in image_size) for n in (2, 4))
        few, many = scaled(width, 1), scaled(width, 2)
        deep = (many, *quarter)
        self.encoder = nn.Sequential(
            conv(in_channels, few, 3, stride=2, padding=1),
            conv(few, many, 3, stride=2, padding=1),
            nn.Flatten(),
            nn.Linear(math.prod(deep), 2 * latent_dim),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, math.prod(deep)),
            nn.Unflatten(1, deep),
            nn.Upsample(half),
            conv(many, few, 3, padding=1),
            nn.Upsample(tuple(image_size)),
            conv(few, few, 3, padding=1),
            nn.Conv2d(few, in_channels, 1),
        )
        self.elbo: Tensor | None = None

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> mean and log variance of the latent vector, (B, L) each."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, z: Tensor) -> Tensor:
        """(B, L) -> (B, C, H, W): images, or their logits where the likelihood is "bernoulli"."""
        return self.decoder(z)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encode(x)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp() if self.training else mean
        reconstruction = self.decode(z)
        if self.training and torch.is_grad_enabled():
            self.elbo = (
                vae_loss(
                    reconstruction,
                    x,
                    mean,
                    log_variance,
                    likelihood=self.likelihood,
                    deviation=self.deviation,
                ).mean()
                / x[0].numel()
            )
        return reconstruction, mean, log_variance

    def __getstate__(self) -> dict[str, object]:
        """Copies and pickles are made without `elbo`, which hangs on a graph."""
        return {**self.__dict__, "elbo": None}


class LatentMean(nn.Module):
    """The latent mean of a VAE as features: (B, C, H, W) -> (B, L).

    In training the whole autoencoder runs, so that its `elbo` is there to be learned; in evaluation
    the encoder alone.

    Args:
        vae: the autoencoder.
        detach: whether what reads the features leaves the autoencoder alone, which then learns from
            its `elbo` only.
    """

    def __init__(self, vae: VAE, *, detach: bool = True):
        super().__init__()
        self.vae, self.detach = vae, detach

    def forward(self, x: Tensor) -> Tensor:
        mean = self.vae(x)[1] if self.training else self.vae.encode(x)[0]
        return mean.detach() if self.detach else mean


@CLASSIFIERS.register("vae_kan")
def vae_kan(
    in_channels: int,
    classes: int,
    *,
    linear: Linear,
    plain: Conv,
    image_size: Sequence[int] | None = None,
    latent_dim: int = 16,
    hidden: Sequence[int] = (),
    width: float = 16,
    likelihood: str = "gaussian",
    deviation: float = DEVIATION,
    detach: bool = True,
) -> FlatClassifier:
    """A flat KAN on the latent mean of a small VAE (`net.front.vae`), which learns beside it: train
    with the penalty {"elbo": 1.0}.

    With `detach` the labels do not reach the VAE: its features are those of the images alone, and
    without the penalty it would not learn at all. Without, the cross entropy shapes them too.
    """
    size = checked_image_size(image_size, classes)
    vae = VAE(
        in_channels, size, latent_dim, width, likelihood=likelihood, deviation=deviation, conv=plain
    )
    head = KAN([latent_dim, *hidden, classes], linear=linear)
    return FlatClassifier(
        LatentMean(vae, detach=detach), head, in_channels=in_channels, image_size=size
    )


def autoencoders(model: nn.Module) -> Iterator[nn.Module]:
    """The variational autoencoders inside a model."""
    return (module for module in model.modules() if isinstance(module, VAE))


@penalty("elbo", layers=autoencoders, of="a variational autoencoder (vae_kan)")
def _elbo(layer: nn.Module, output: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Minus the evidence lower bound, in nats a value; taken away, so that it counts once."""
    taken, layer.elbo = layer.elbo, None
    return taken

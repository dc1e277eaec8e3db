"""A small variational autoencoder (Kingma and Welling 2014, arXiv:1312.6114), and a classifier on
its latent mean.
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

# Standard deviation of the Gaussian around a reconstruction. With 1 few latent values are worth
# their divergence: a KAN on detached features of scikit-learn's 8x8 digits, with pixels from -1 to
# 1, reached an accuracy of .85 with 1, .94 with 0.3 and .92 with 0.1 (one run each).
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


# name -> (reconstruction, images, deviation) -> negative log likelihood of each value
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
    """Negative evidence lower bound of each image, in nats: (B,), at least float32 (Kingma and
    Welling 2014, eq. 10).

    Args:
        reconstruction: (B, C, H, W); the mean of a Gaussian for "gaussian", logits for "bernoulli".
        x: (B, C, H, W) images; for "bernoulli" from 0 to 1.
        mean, log_variance: (B, L), parameters of the latent Gaussian.
        likelihood: "gaussian" or "bernoulli".
        deviation: standard deviation for "gaussian".

    Raises:
        ValueError: pixels outside 0 to 1 for "bernoulli".
    """
    with without_autocast(x):
        reconstruction, x = at_least_float32(reconstruction), at_least_float32(x)
        mean, log_variance = at_least_float32(mean), at_least_float32(log_variance)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)
        losses = LIKELIHOODS[likelihood](reconstruction, x, deviation)
        return losses.flatten(1).sum(dim=1) + divergence


class VAE(nn.Module):
    """Variational autoencoder of two strided convolutions and a linear layer on each side: (B, C,
    H, W) -> reconstruction, mean, log variance.

    The latent vector is sampled in training and is the mean in evaluation. A training forward
    stores the negative evidence lower bound, averaged over images and values (nats per value), in
    `elbo`; `Penalty(model, {"elbo": 1.0})` or `training.penalty` add it to the loss. This average
    has the scale of a cross entropy for images of any size.

    Args:
        in_channels, image_size: channels and (H, W) of the images.
        latent_dim: number of latent values L.
        width: channels of the first convolution; the second has twice as many.
        likelihood: "gaussian" (for normalized images) or "bernoulli" (for pixels from 0 to 1).
        deviation: standard deviation for "gaussian"; a smaller one gives the reconstruction more
            weight against the divergence of the latent vector.
        conv: (in_channels, out_channels, kernel_size, stride=, padding=) -> module; plain
            convolutions by default.

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
        conv = conv or kan_conv(basis="none")
        self.latent_dim, self.likelihood, self.deviation = latent_dim, likelihood, deviation
        half = tuple(-(-side // 2) for side in image_size)
        quarter = tuple(-(-side // 4) for side in image_size)
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
        """(B, L) -> (B, C, H, W): images, or their logits for likelihood "bernoulli"."""
        return self.decoder(z)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encode(x)
        z = mean
        if self.training:
            z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        reconstruction = self.decode(z)
        if self.training and torch.is_grad_enabled():
            losses = vae_loss(
                reconstruction,
                x,
                mean,
                log_variance,
                likelihood=self.likelihood,
                deviation=self.deviation,
            )
            self.elbo = losses.mean() / x[0].numel()
        return reconstruction, mean, log_variance

    def __getstate__(self) -> dict[str, object]:
        """Leave `elbo` out of copies and pickles: it is part of an autograd graph."""
        return {**self.__dict__, "elbo": None}


class LatentMean(nn.Module):
    """The latent mean of a VAE as features: (B, C, H, W) -> (B, L).

    In training the whole autoencoder runs, which stores its `elbo`; in evaluation only the encoder.

    Args:
        vae: the autoencoder.
        detach: stop the gradient of the features, so that the autoencoder learns from its `elbo`
            only.
    """

    def __init__(self, vae: VAE, *, detach: bool = True):
        super().__init__()
        self.vae, self.detach = vae, detach

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            _, mean, _ = self.vae(x)
        else:
            mean, _ = self.vae.encode(x)
        if self.detach:
            return mean.detach()
        return mean


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
    """A flat KAN on the latent mean of a small VAE (`net.front.vae`); train both with the penalty
    {"elbo": 1.0}.

    With `detach` the VAE learns from the images alone, and without the penalty not at all. With
    detach=False it also learns from the cross entropy.
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
    for module in model.modules():
        if isinstance(module, VAE):
            yield module


@penalty("elbo", layers=autoencoders, of="a variational autoencoder (vae_kan)")
def _elbo(layer: nn.Module, output: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Negative evidence lower bound, in nats per value; cleared, so that it counts once."""
    elbo, layer.elbo = layer.elbo, None
    return elbo

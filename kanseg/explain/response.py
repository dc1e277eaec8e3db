"""The response of the first layer with functions to the intensity of an image, in its own units."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from kanseg.data.preprocess import Preprocess
from kanseg.layers import KANLinear
from kanseg.layers.grids import call_before_layers, unwrapped
from kanseg.layers.inspection.curves import HasCurves
from kanseg.layers.inspection.health import named_kan_layers
from kanseg.models.operations import device_and_dtype, preserve_state
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate

POINTS = 65
SIZE = 64  # pixels, side of the uniform images
FLOAT_REACH = 3.0  # standard deviations that are shown of images of floats


@dataclass(frozen=True)
class InputResponse:
    """What the first layer with functions returns for uniform images.

    Args:
        layer: its name in `network.named_modules()`.
        on_pixels: whether its functions read the pixels themselves; otherwise the response is that
            of the layers before them, such as a convolution and its norm, together with them.
        values: (n,) intensities in the units of the image.
        bands: "all bands" (a gray image) and every band alone, while the others have the mean of
            the training images; "intensity" for a single band.
        response: (bands, O, n) output of every channel of the layer, in the middle of the image.
    """

    layer: str
    on_pixels: bool
    values: Tensor
    bands: list[str]
    response: Tensor

    @property
    def note(self) -> str:
        """What the response is of, in a sentence."""
        if self.on_pixels:
            return translate(
                "Output of {layer}, whose functions read the pixels, for uniform images.",
                layer=self.layer,
            )
        return translate(
            "Output of {layer} for uniform images. Its functions do not read pixels, but the output"
            " of the layers before them: this is the response of all of these together.",
            layer=self.layer,
        )


def input_response(
    network: nn.Module,
    preprocess: Preprocess,
    *,
    max_value: float = 255,
    size: tuple[int, int] | None = None,
) -> InputResponse:
    """The response of the first layer with functions to the intensity of each band.

    The network runs on uniform images, so that the values are exactly what the layer computes
    there; texture is no part of it. Where the domain map or a norm normalizes every image, all
    uniform images look alike. The network is afterwards as it was.

    Args:
        network: any network of images (B, channels, H, W) with KAN layers.
        preprocess: of its training (`Predictor.preprocess`): mean, standard deviation and gamma.
        max_value: largest value of an integer image: 255 for 8 bits, 65535 for 16. Images of floats
            are shown over three standard deviations of the training images.
        size: (H, W) of the uniform images; by default the one size that the network is built for,
            or else 64 x 64.

    Raises:
        InputError: a network without KAN layers.
    """
    network = unwrapped(network)
    layers = named_kan_layers(network)
    if not layers:
        raise InputError("the network has no layer with learned functions; train one with a basis")
    size = size or getattr(network, "image_size", (SIZE, SIZE))
    values, pixels = _intensities(preprocess, max_value)
    bands = band_names(preprocess.channels)
    responses = []
    on_pixels = True
    with preserve_state(network, training=False), torch.no_grad():
        device, dtype = device_and_dtype(network)
        for images in _uniform_images(pixels, size):
            images = images.to(device, dtype)
            layer, layer_input = _first_layer(network, images, layers.values())
            on_pixels = on_pixels and _holds_only(layer.basis_input(layer_input), images)
            output = _in_the_middle(layer, layer(layer_input), len(images))
            responses.append(output.T.float().cpu())
    names = {each: name for name, each in layers.items()}
    return InputResponse(names[layer], on_pixels, values, bands, torch.stack(responses))


def band_names(channels: int) -> list[str]:
    """Names of the responses for an image of this many channels."""
    if channels == 1:
        return ["intensity"]
    names = [f"band {number}" for number in range(1, channels + 1)]
    if channels == 3:
        names = ["red", "green", "blue"]
    return ["all bands", *names]


def _intensities(preprocess: Preprocess, max_value: float) -> tuple[Tensor, Tensor]:
    """Intensities (n,) in the units of the image, and what the network gets (channels, n)."""
    values = np.linspace(0, max_value, POINTS, dtype=np.float32)
    scale = max_value
    if preprocess.floats:
        mean, std = np.array(preprocess.mean), np.array(preprocess.std)
        lo, hi = (mean - FLOAT_REACH * std).min(), (mean + FLOAT_REACH * std).max()
        values, scale = np.linspace(lo, hi, POINTS, dtype=np.float32), 1.0
    row = np.repeat((values / scale)[None, :, None], preprocess.channels, axis=2)
    return torch.from_numpy(values), preprocess.normalize(row)[:, 0]


def _uniform_images(pixels: Tensor, size: tuple[int, int]) -> list[Tensor]:
    """Images (n, channels, H, W) of pixels (channels, n): of all bands, then of each alone; the
    mean of the training images is 0.
    """
    batches = [pixels.T]
    if len(pixels) > 1:
        for band, values in enumerate(pixels):
            alone = torch.zeros_like(pixels)
            alone[band] = values
            batches.append(alone.T)
    return [each[:, :, None, None].expand(-1, -1, *size) for each in batches]


def _first_layer(
    network: nn.Module, images: Tensor, layers: Iterable[HasCurves]
) -> tuple[HasCurves, Tensor]:
    """The first of the layers that runs, and its input."""
    first: list[tuple[HasCurves, Tensor]] = []

    def note(layer: HasCurves, layer_input: Tensor) -> None:
        if not first:
            first.append((layer, layer_input.clone()))

    call_before_layers(network, images, layers, note)
    return first[0]


def _holds_only(x: Tensor, images: Tensor) -> bool:
    """True if x (n, ...) holds only values of the pixels of the uniform images, or padding."""
    pixels = images[:, :, 0, 0]
    flat = x.reshape(len(images), -1, 1)
    return bool(((flat == pixels.unsqueeze(1)) | (flat == 0)).any(2).all())


def _in_the_middle(layer: HasCurves, y: Tensor, count: int) -> Tensor:
    """The channels (count, O) of a layer's output in the middle of `count` images."""
    if isinstance(layer, KANLinear):  # (..., O)
        y = y.reshape(count, -1, y.shape[-1]).mT
    middle = (side // 2 for side in y.shape[2:])
    return y[(slice(None), slice(None), *middle)]

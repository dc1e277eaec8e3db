"""Training with a pretrained encoder: the first epochs without it, its learning rate, and the
normalization of images that it expects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from kanseg.config import ModelConfig
from kanseg.data import Preprocess
from kanseg.encoders import (
    EncoderWeights,
    ExternalEncoder,
    ImageStatistics,
    find_encoder_weights,
    full_encoder_name,
    is_external,
    stored_statistics,
)
from kanseg.inference.checkpoint import read_weights
from kanseg.inference.description import build_model
from kanseg.models.factory import CHANGES
from kanseg.training.optim.optimizers import NEEDS_CLOSURE
from kanseg.utils.errors import InputError
from kanseg.utils.hub import find_folder, read_description
from kanseg.utils.text import one_line
from kanseg.utils.weights import WEIGHTS

# Defaults with model.encoder_weights. Gradients of a decoder with random weights would undo what
# the encoder has learned; a lower rate keeps it later on.
FREEZE_EPOCHS = 2
LR_FACTOR = 0.1
MIN_TRAINED = 0.25  # share of the epochs; with fewer, an encoder hardly learns
COLORS = 3


@dataclass
class FrozenEncoder:
    """An encoder that is not trained in the first epochs.

    Args:
        module: the part of the network with the pretrained weights.
        epochs: in which it is frozen.
    """

    module: nn.Module
    epochs: int
    parameters: list[nn.Parameter] = field(init=False)

    def __post_init__(self) -> None:
        # Some networks have parameters that are never trained, such as position embeddings.
        self.parameters = [each for each in self.module.parameters() if each.requires_grad]

    def set_epoch(self, epoch: int) -> None:
        """Freeze or unfreeze the encoder for an epoch, counted from 0, of a network in training
        mode.
        """
        self.unfreeze()
        if epoch < self.epochs:
            for parameter in self.parameters:
                parameter.requires_grad_(False)
            self.module.eval()

    def unfreeze(self) -> None:
        """Let the encoder be trained."""
        for parameter in self.parameters:
            parameter.requires_grad_(True)


def freeze_epochs(config: Any) -> int:
    """Number of first epochs in which the encoder is frozen."""
    if config.training.freeze_encoder_epochs is not None:
        return config.training.freeze_encoder_epochs
    if config.model.encoder_weights is not None:
        return FREEZE_EPOCHS
    return 0


def pretrained_part(model: nn.Module) -> tuple[str, nn.Module]:
    """Name and module of the part of a network that has pretrained weights.

    Raises:
        InputError: a network without an encoder.
    """
    encoder = getattr(model, "encoder", None)
    if encoder is None:
        raise InputError(
            "training.freeze_encoder_epochs and model.encoder_weights need a network with an"
            f" encoder; {type(model).__name__} has none"
        )
    if isinstance(encoder, ExternalEncoder):
        return "encoder.body", encoder.body
    return "encoder", encoder


def with_encoder_lr(config: Any, model: nn.Module) -> Any:
    """The settings `training` of a run, with the lower rate of a pretrained encoder in lr_factors
    unless they have others.
    """
    settings = config.training
    if config.model.encoder_weights is None or settings.lr_factors:
        return settings
    if settings.optimizer in NEEDS_CLOSURE:  # has one rate for all parameters
        return settings
    name, _ = pretrained_part(model)
    return replace(settings, lr_factors={f"{name}.*": LR_FACTOR})


def create_started(arguments: dict[str, Any], source: str, log: Callable[[str], None]) -> nn.Module:
    """Build a network with the weights of a checkpoint.

    Args:
        arguments: of `create_model`; what was done to the network since it was created is added.
        source: checkpoint or run folder.
        log: receives a line about it.

    Raises:
        InputError: there is none, or its network has other options.
    """
    try:
        folder = find_folder(source)
        description = read_description(folder)
        weights = read_weights(folder)
    except InputError as error:
        raise InputError(f"model.start_from: {error}") from None
    stored = description.get("model") or description.get("classifier") or {}
    arguments |= {key: stored[key] for key in CHANGES if key in stored}
    model = build_model(arguments)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"model.start_from: {folder} does not fit the network of these settings:"
            f" {one_line(error)}"
        ) from None
    log(f"model: the training begins with the weights of {folder}")
    return model


def find_pretrained(model: ModelConfig) -> EncoderWeights | None:
    """Find the pretrained weights of the settings, and download them if they are not on this
    computer; None if the settings have none.

    Raises:
        InputError: there are none, or they cannot be reached.
    """
    weights = model.encoder_weights
    if weights is None:
        return None
    if model.encoder is not None and is_external(full_encoder_name(model.encoder)):
        try:
            return find_encoder_weights(full_encoder_name(model.encoder), weights)
        except InputError as error:
            raise InputError(f"model.encoder_weights: {error}") from None
    try:
        folder = find_folder(weights)
        description = read_description(folder)
    except InputError as error:
        raise InputError(
            f"model.encoder_weights: {error}. An encoder of kanseg begins with the folder of any"
            " trained network of kanseg that has it; names such as imagenet belong to encoders of"
            " other libraries (model.encoder: resnet34)"
        ) from None
    statistics = stored_statistics(description, folder)
    return EncoderWeights(folder / WEIGHTS, str(folder), statistics)


def check_encoder(config: Any, model: nn.Module) -> None:
    """Check the settings of the encoder; only the structure of `model` is used.

    Raises:
        InputError: a number of epochs below 0, a network without an encoder, or weights from two
            places.
    """
    epochs = config.training.freeze_encoder_epochs
    if epochs is not None and epochs < 0:
        raise InputError(f"training.freeze_encoder_epochs must be at least 0, got {epochs}")
    if epochs or config.model.encoder_weights is not None:
        pretrained_part(model)
    if config.model.encoder_weights is not None and config.model.start_from is not None:
        raise InputError(
            "model.start_from has the weights of the encoder, too: leave out model.encoder_weights"
        )


def encoder_statistics(
    found: EncoderWeights | None, preprocess: Preprocess, log: Callable[[str], None]
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation per channel for images of a pretrained encoder; None if there is
    no encoder, or if the images are not like those that it was trained on.

    Args:
        found: the pretrained weights of the settings.
        preprocess: of the images of this run.
        log: receives a line about the decision.
    """
    if found is None or found.statistics is None:
        return None
    statistics, channels = _for_channels(found.statistics, preprocess.channels), preprocess.channels
    reason = None
    if preprocess.floats:
        reason = "the images are floats without a fixed range"
    elif preprocess.gamma != found.statistics.gamma:
        reason = f"data.gamma is {preprocess.gamma:g}"
    elif statistics is None:
        reason = f"the images have {channels} channels"
    if reason is not None:
        log(
            f"data.mean and data.std are those of the training images, not of the pretrained"
            f" encoder: {reason}"
        )
        return None
    mean, std = _short(statistics.mean), _short(statistics.std)
    log(f"data.mean {mean} and data.std {std} are those of the pretrained encoder")
    return statistics.mean, statistics.std


def _for_channels(statistics: ImageStatistics, channels: int) -> ImageStatistics | None:
    """Statistics for images of another number of channels; gray is the mean of the colors."""
    mean, std = statistics.mean, statistics.std
    if len(mean) == channels:
        return statistics
    if channels == 1 and len(mean) == COLORS:
        return replace(statistics, mean=(sum(mean) / COLORS,), std=(sum(std) / COLORS,))
    return None


def _short(values: tuple[float, ...]) -> str:
    return "[" + ", ".join(f"{value:.3g}" for value in values) + "]"


def describe_encoder(config: Any, model: nn.Module) -> list[str]:
    """Lines about the training of the encoder, for the log."""
    epochs, weights = freeze_epochs(config), config.model.encoder_weights
    lines = []
    if epochs:
        name, _ = pretrained_part(model)
        until = f"until the end of epoch {epochs}"
        if epochs >= config.training.epochs:
            until = "in all epochs"
        lines.append(
            f"training: {name} is frozen {until}, its norms in evaluation mode"
            " (training.freeze_encoder_epochs)"
        )
        trained = max(config.training.epochs - epochs, 0)
        if trained < MIN_TRAINED * config.training.epochs:
            lines.append(
                f"warning: the encoder is trained in {trained} of {config.training.epochs} epochs:"
                " raise training.epochs or lower training.freeze_encoder_epochs, unless only the"
                " decoder is to learn"
            )
    if weights is None:
        return lines
    for pattern, factor in with_encoder_lr(config, model).lr_factors.items():
        if pattern not in config.training.lr_factors:
            lines.append(
                f"training: {pattern} has {factor:g} times the learning rate (training.lr_factors)"
            )
    channels = config.data.channels
    if channels != COLORS and isinstance(model.encoder, ExternalEncoder):
        how = "summed over its 3 channels"
        if channels > 1:
            how = f"repeated over {channels} channels and scaled by 3/{channels}"
        lines.append(f"model: the first convolution of the pretrained encoder is {how}")
    return lines

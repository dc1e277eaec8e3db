"""Names and options become networks here, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from torch import nn

from kanseg.bases import BASES, list_basis_options
from kanseg.encoders import ENCODERS, Encoder, ExternalEncoder, external_encoder, is_external
from kanseg.layers.linear import KANLinear
from kanseg.models.classification import CLASSIFIERS, ClassificationModel, FlatClassifier
from kanseg.models.matching import matched
from kanseg.models.options import (
    LINEAR_OPTIONS,
    Options,
    Stem,
    check_counts,
    conv_parts,
    flat_parts,
    keyword_names,
    with_default_share,
)
from kanseg.models.segmentation import MODELS
from kanseg.utils.hub import BUILDERS, described, load_encoder
from kanseg.utils.registry import Registry, nearest

# Options of a model that mean nothing once another encoder stands in it.
ENCODER_OPTIONS = ("width", "depth", "downsample")
MATCH_SIZE = (256, 256)

Like = Mapping[str, object] | nn.Module | None
Weights = str | Path | bool | None


def create_model(
    name: str,
    in_channels: int = 3,
    classes: int = 2,
    *,
    basis: str = "gram",
    stem: Stem = "auto",
    encoder: str | Encoder | ExternalEncoder | None = None,
    encoder_depth: int | None = None,
    encoder_weights: Weights = None,
    encoder_options: Mapping[str, object] | None = None,
    aux_params: dict[str, object] | None = None,
    features_only: bool = False,
    match: str | None = None,
    like: Like = None,
    match_size: Sequence[int] = MATCH_SIZE,
    **options: object,
) -> nn.Module:
    """A network by name: (B, in_channels, H, W) -> raw logits, any H and W.

    Args:
        name: one of `kanseg.list_models()`. A segmentation network returns (B, classes, H, W), a
            classifier (B, classes).
        in_channels: channels of the image.
        classes: logits a pixel (1 for a binary task with a sigmoid), or an image.
        basis: one of `kanseg.list_bases()`, for every convolution; "none" gives the same net of
            plain convolutions.
        stem: the first convolution, the one that reads the image: "auto" for B-splines of the
            colors where each edge has a function of its own, else as None; None for the same as
            all others; or options that differ, such as {"basis": "rbf", "grid_range": [-3, 3]}.
        encoder: another encoder under the network's decoder (of `unet` and `ukanet_*`): one of
            `kanseg.list_encoders()`, "smp-NAME" or "timm-NAME" for one of
            segmentation_models.pytorch or timm, or an encoder itself.
        encoder_depth: its halvings (of "smp-" and "timm-" 5 by default).
        encoder_weights: for our encoders the folder of any network of ours, as of `create_encoder`;
            for "smp-" and "timm-" the name of pretrained weights, which are downloaded ("imagenet",
            or a tag of timm); None for none.
        encoder_options: of one of ours, where it is to differ (basis, stem) or has its own (width,
            ...); of a model of timm.
        image_size: height and width of the images, for those classifiers that are built for one
            size (the names in `CLASSIFIERS`); an option.
        aux_params: {"classes": n, "pooling": "avg", "dropout": 0.2} adds a classification head to a
            segmentation network, which then returns (masks, labels), as in
            segmentation_models.pytorch.
        features_only: the encoder alone, as of `create_encoder`.
        match: "params" or "macs": solve `width` so that the network has as many parameters, or
            multiply-adds for an image of `match_size`, as `like`, within 2 %.
        like: a network, or the arguments in which it differs from this one: {"basis": "gram"} (see
            `kanseg.models.matching`).
        match_size: height and width of the image.
        options: of the network (width, depth, ...; of a classifier also head, head_dropout,
            pool_size), of KANConv2d (norm, activation, dropout, padding_mode, ...) and of the basis
            (degree, grid_size, ...). `share` is "channel" by default: one function a channel, added
            to the activation. With share="edge" inner_channels is 0.25 by default, a bottleneck of
            a quarter of the channels (None for full functions on every edge), and base_activation
            "identity": activations stand between the layers already. `experts=4` makes every
            convolution but the stem a mixture of 4 (`ConvExperts`), of which an image goes through
            `top_k=2`.

    Raises:
        ValueError: an unknown name or option; the message names the nearest known one. A size that
            no width gives.
    """
    if features_only:
        if encoder is not None or aux_params is not None:
            raise ValueError(
                "features_only gives the network's own encoder: leave encoder and aux_params out"
            )
        return create_encoder(
            name,
            in_channels,
            basis=basis,
            stem=stem,
            match=match,
            like=like,
            match_size=match_size,
            weights=encoder_weights,
            **options,
        )
    check_counts(in_channels=in_channels, classes=classes)
    if encoder is None and (encoder_depth is not None or encoder_options is not None):
        raise ValueError(
            "encoder_depth and encoder_options are those of another encoder: name it by encoder=..."
        )
    options = with_default_share(name, basis, options)
    arguments = {
        "name": name,
        "in_channels": in_channels,
        "classes": classes,
        "basis": basis,
        "stem": stem,
        **options,
    }
    if match is not None or like is not None:
        if encoder is not None:
            raise ValueError(
                "match solves the width of a network and its own encoder, and cannot change"
                " encoder=...: leave one of them out"
            )
        arguments |= {"aux_params": aux_params, "encoder_weights": encoder_weights}
        arguments |= {"match": match, "like": like, "match_size": match_size}
        return create_model(**matched(create_model, arguments))
    if name not in MODELS and (name in ENCODERS or name in CLASSIFIERS):
        if aux_params is not None or encoder is not None:
            raise ValueError(
                f"{name!r} is a classifier, its encoder and a head: encoder=... and aux_params"
                " belong to segmentation networks"
            )
        return create_classifier(**arguments, encoder_weights=encoder_weights)
    build = _look_up(MODELS, name, others=[*ENCODERS, *CLASSIFIERS])
    parts = conv_parts(build, basis, stem, options)
    if aux_params is not None:
        arguments["aux_params"] = aux_params
    if encoder is not None:
        _check_replaceable(name, build, options)
        shared = {key: value for key, value in options.items() if key not in parts}
        parts["encoder"] = _other_encoder(
            encoder,
            in_channels,
            depth=encoder_depth,
            weights=encoder_weights,
            options=encoder_options,
            shared={"basis": basis, "stem": stem, **shared},
        )
        # The weights that it began with are not stored: a stored network has its own.
        arguments |= {
            "encoder": encoder,
            "encoder_depth": encoder_depth,
            "encoder_options": encoder_options,
        }
    model = build(in_channels, classes, aux_params=aux_params, **parts)
    if encoder is None and encoder_weights is not None:
        load_encoder(model.encoder, encoder_weights)
    return described(model, "model", arguments)


def create_encoder(
    name: str,
    in_channels: int = 3,
    *,
    basis: str = "gram",
    stem: Stem = "auto",
    match: str | None = None,
    like: Like = None,
    match_size: Sequence[int] = MATCH_SIZE,
    weights: Weights = None,
    **options: object,
) -> Encoder:
    """An encoder by name: (B, in_channels, H, W) -> depth + 1 features; `.out_channels`,
    `.output_stride`.

    Arguments as of `create_model`; `depth` is the number of halvings. `weights` names any network
    of ours whose encoder has the same shape, be it a classifier or a segmentation network: a folder
    of `save_pretrained`, or of a training run. Another number of channels of its images is
    adapted by `set_in_channels`.
    """
    options = with_default_share(name, basis, options)
    arguments = {"name": name, "in_channels": in_channels, "basis": basis, "stem": stem, **options}
    if match is not None or like is not None:
        arguments |= {"match": match, "like": like, "match_size": match_size, "weights": weights}
        return create_encoder(**matched(create_encoder, arguments))
    if name in CLASSIFIERS:
        raise ValueError(
            f"{name!r} is a classifier without a feature pyramid; its method `features` gives the"
            " outputs of its layers"
        )
    if is_external(name):
        raise ValueError(
            f"{name!r} is not one of ours: it goes under one of our decoders, create_model('unet',"
            f" encoder={name!r})"
        )
    check_counts(in_channels=in_channels)
    build = ENCODERS[name]
    encoder = build(in_channels, **conv_parts(build, basis, stem, options))
    load_encoder(encoder, weights)
    return described(encoder, "encoder", arguments)


def _check_replaceable(name: str, build: Callable, options: Mapping[str, object]) -> None:
    """ValueError where a model has an encoder that is part of it, or options that only its own
    encoder has.
    """
    if "encoder" not in keyword_names(build):
        raise ValueError(
            f"{name!r} has no decoder for other encoders, got encoder=...; choose 'unet' or"
            " 'ukanet_18'"
        )
    for key in ENCODER_OPTIONS:
        if key in options:
            instead = f"encoder_options={{{key!r}: ...}}"
            if key == "depth":
                instead = "encoder_depth"
            raise ValueError(
                f"{key!r} is an option of the encoder that encoder=... replaces: give {instead}"
            )


def _other_encoder(
    encoder: str | Encoder | ExternalEncoder,
    in_channels: int,
    *,
    depth: int | None,
    weights: Weights,
    options: Mapping[str, object] | None,
    shared: Options,
) -> Encoder | ExternalEncoder:
    """The encoder that `create_model(..., encoder=...)` names; one of ours has the `shared` options
    of the network too.
    """
    if not isinstance(encoder, str):
        is_set_again = depth is not None or weights is not None or options is not None
        if is_set_again or encoder.in_channels != in_channels:
            raise ValueError(
                "an encoder that is built has its own depth, weights, options and"
                f" in_channels={encoder.in_channels}: give none of them again"
            )
        return encoder
    own = dict(options or {})
    if depth is not None:
        own["depth"] = depth
    if is_external(encoder):
        return external_encoder(encoder, in_channels, weights=weights, **own)
    return create_encoder(encoder, in_channels, weights=weights, **{**shared, **own})


def create_classifier(
    name: str,
    in_channels: int = 3,
    classes: int = 10,
    *,
    basis: str = "gram",
    stem: Stem = "auto",
    head: str = "linear",
    head_dropout: float = 0.0,
    pool_size: int = 1,
    match: str | None = None,
    like: Like = None,
    match_size: Sequence[int] = MATCH_SIZE,
    encoder_weights: Weights = None,
    **options: object,
) -> ClassificationModel | FlatClassifier:
    """Any encoder of `kanseg.list_encoders()` with a classification head: (B, in_channels, H, W) ->
    raw logits (B, classes), any H and W.

    Or one of `CLASSIFIERS`, for images of the option `image_size`. `head`, `head_dropout` and
    `pool_size` as of `ClassificationModel`, all else as of `create_model`.
    """
    options = with_default_share(name, basis, options)
    top = {"head": head, "head_dropout": head_dropout, "pool_size": pool_size}
    arguments = {
        "name": name,
        "in_channels": in_channels,
        "classes": classes,
        "basis": basis,
        "stem": stem,
        **top,
        **options,
    }
    if match is not None or like is not None:
        arguments |= {"match": match, "like": like, "match_size": match_size}
        arguments["encoder_weights"] = encoder_weights
        return create_classifier(**matched(create_classifier, arguments))
    check_counts(in_channels=in_channels, classes=classes)
    if name in CLASSIFIERS:
        if encoder_weights is not None:
            raise ValueError(
                f"{name!r} has no encoder that encoder_weights={str(encoder_weights)!r} could go"
                " into"
            )
        # These networks end in their own head; an option of another head is an unknown one.
        defaults = {"head": "linear", "head_dropout": 0.0, "pool_size": 1}
        options |= {key: value for key, value in top.items() if value != defaults[key]}
        build = CLASSIFIERS[name]
        model = build(in_channels, classes, **flat_parts(build, basis, stem, options))
        arguments = {
            "name": name,
            "in_channels": in_channels,
            "classes": classes,
            "basis": basis,
            **options,
        }
        return described(model, "classifier", arguments)
    encoder = create_encoder(
        name, in_channels, basis=basis, stem=stem, weights=encoder_weights, **options
    )
    known = list(LINEAR_OPTIONS)
    if basis != "none":
        known += list_basis_options(basis)
    linear_options = {key: value for key, value in options.items() if key in known}
    linear = partial(KANLinear, basis=basis, **linear_options)
    model = ClassificationModel(encoder, classes=classes, linear=linear, **top)
    return described(model, "classifier", arguments)


def list_models(task: str | None = None) -> list[str]:
    """Names for `create_model`: all, or those of the task "segmentation" or "classification"."""
    segmentation = list(MODELS)
    encoders = [name for name in ENCODERS if name not in MODELS]
    classification = [*encoders, *CLASSIFIERS]
    if task is None:
        return segmentation + classification
    if task == "segmentation":
        return segmentation
    if task == "classification":
        return classification
    raise ValueError(f"task must be 'segmentation', 'classification' or None, got {task!r}")


def list_encoders() -> list[str]:
    """Names for `create_encoder`."""
    return list(ENCODERS)


def list_bases() -> list[str]:
    """Names for the option `basis`; "none" is the plain convolution."""
    return [*BASES, "none"]


def _look_up(registry: Registry[Callable], name: str, *, others: Iterable[str]) -> Callable:
    """The entry of a registry; the error for an unknown name knows the other names too."""
    if name in registry:
        return registry[name]
    known = list(dict.fromkeys([*registry, *others]))
    raise ValueError(
        f"unknown {registry.kind} {name!r}{nearest(name, known)} (known: {', '.join(known)})"
    )


BUILDERS.update(model=create_model, classifier=create_classifier, encoder=create_encoder)

"""Names and options become networks here, and nowhere else."""

from __future__ import annotations

import inspect
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
    Stem,
    check_counts,
    conv_parts,
    flat_parts,
    with_share,
)
from kanseg.models.segmentation import MODELS
from kanseg.utils.hub import BUILDERS, described, load_encoder
from kanseg.utils.registry import Registry, nearest

OF_THE_ENCODER = (
    "width",
    "depth",
    "downsample",
)  # options of a model that say nothing once another encoder stands in it

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
    match_size: Sequence[int] = (256, 256),
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
        question = {
            "match": match,
            "like": like,
            "match_size": match_size,
            "weights": encoder_weights,
        }
        return create_encoder(name, in_channels, basis=basis, stem=stem, **question, **options)
    check_counts(in_channels=in_channels, classes=classes)
    options = with_default_share(name, basis, options)
    choice = {"depth": encoder_depth, "weights": encoder_weights, "options": encoder_options}
    if encoder is None and (encoder_depth is not None or encoder_options is not None):
        raise ValueError(
            "encoder_depth and encoder_options are those of another encoder: name it by encoder=..."
        )
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
        question = {
            "aux_params": aux_params,
            "match": match,
            "like": like,
            "match_size": match_size,
            "encoder_weights": encoder_weights,
        }
        return create_model(**matched(create_model, arguments | question))
    if name in MODELS or (name not in ENCODERS and name not in CLASSIFIERS):
        build = _look_up(MODELS, name, others=[*ENCODERS, *CLASSIFIERS])
        parts = conv_parts(build, basis, stem, options)
        if encoder is not None:
            common = {
                "basis": basis,
                "stem": stem,
                **{key: value for key, value in options.items() if key not in parts},
            }
            _check_replaceable(name, options)
            parts["encoder"] = _encoder(encoder, in_channels, common=common, **choice)
            # the stored network has the weights already
            arguments |= {
                "encoder": encoder,
                "encoder_depth": encoder_depth,
                "encoder_options": encoder_options,
            }
        model = build(in_channels, classes, aux_params=aux_params, **parts)
        if encoder is None and encoder_weights is not None:
            load_encoder(model.encoder, encoder_weights)
        return described(
            model, "model", arguments | ({} if aux_params is None else {"aux_params": aux_params})
        )
    if aux_params is not None or encoder is not None:
        raise ValueError(
            f"{name!r} is a classifier, its encoder and a head: encoder=... and aux_params belong"
            " to segmentation networks"
        )
    return create_classifier(
        name,
        in_channels,
        classes,
        basis=basis,
        stem=stem,
        encoder_weights=encoder_weights,
        **options,
    )


def create_encoder(
    name: str,
    in_channels: int = 3,
    *,
    basis: str = "gram",
    stem: Stem = "auto",
    match: str | None = None,
    like: Like = None,
    match_size: Sequence[int] = (256, 256),
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
        return create_encoder(
            **matched(
                create_encoder,
                arguments
                | {
                    "match": match,
                    "like": like,
                    "match_size": match_size,
                    "weights": weights,
                },
            )
        )
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


def with_default_share(name: str, basis: str, options: Mapping[str, object]) -> dict[str, object]:
    """The options of a network with `share` among them, so that a stored network tells it.

    Flat networks have functions of each edge by default, and so has U-KAN, whose token blocks are
    KAN layers.
    """
    return with_share(basis, options, per_edge=name in CLASSIFIERS or name == "ukan")


def _check_replaceable(model: str, options: Mapping[str, object]) -> None:
    """ValueError where a model has an encoder that is part of it, or options that only its own
    encoder has.
    """
    if "encoder" not in inspect.signature(MODELS[model]).parameters:
        raise ValueError(
            f"{model!r} has no decoder for other encoders, got encoder=...; choose 'unet' or"
            " 'ukanet_18'"
        )
    for key in OF_THE_ENCODER:
        if key in options:
            cure = "encoder_depth" if key == "depth" else f"encoder_options={{{key!r}: ...}}"
            raise ValueError(
                f"{key!r} is an option of the encoder that encoder=... replaces: give {cure}"
            )


def _encoder(
    encoder: str | Encoder | ExternalEncoder,
    in_channels: int,
    *,
    common: Mapping[str, object],
    depth: int | None,
    weights: Weights,
    options: Mapping[str, object] | None,
) -> Encoder | ExternalEncoder:
    """An encoder by name; `common` are the options that one of ours shares with the network."""
    sizes = {} if depth is None else {"depth": depth}
    if not isinstance(encoder, str):
        if (
            sizes
            or weights is not None
            or options is not None
            or encoder.in_channels != in_channels
        ):
            raise ValueError(
                "an encoder that is built has its own depth, weights, options and"
                f" in_channels={encoder.in_channels}: give none of them again"
            )
        return encoder
    if is_external(encoder):
        return external_encoder(encoder, in_channels, weights=weights, **sizes, **(options or {}))
    return create_encoder(
        encoder, in_channels, weights=weights, **{**common, **(options or {}), **sizes}
    )


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
    match_size: Sequence[int] = (256, 256),
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
    if match is not None or like is not None:
        arguments = {
            "name": name,
            "in_channels": in_channels,
            "classes": classes,
            "basis": basis,
            "stem": stem,
            **top,
            **options,
        }
        return create_classifier(
            **matched(
                create_classifier,
                arguments | {"match": match, "like": like, "match_size": match_size},
            )
        )
    check_counts(in_channels=in_channels, classes=classes)
    if name in CLASSIFIERS:
        if encoder_weights is not None:
            raise ValueError(
                f"{name!r} has no encoder that encoder_weights={str(encoder_weights)!r} could go"
                " into"
            )
        build, top = (
            CLASSIFIERS[name],
            {
                "head": (head, "linear"),
                "head_dropout": (head_dropout, 0.0),
                "pool_size": (pool_size, 1),
            },
        )
        options |= {key: value for key, (value, default) in top.items() if value != default}
        model = build(in_channels, classes, **flat_parts(build, basis, stem, options))
        return described(
            model,
            "classifier",
            {
                "name": name,
                "in_channels": in_channels,
                "classes": classes,
                "basis": basis,
                **options,
            },
        )
    encoder = create_encoder(
        name, in_channels, basis=basis, stem=stem, weights=encoder_weights, **options
    )
    known = [*LINEAR_OPTIONS, *([] if basis == "none" else list_basis_options(basis))]
    linear = partial(
        KANLinear, basis=basis, **{key: value for key, value in options.items() if key in known}
    )
    model = ClassificationModel(encoder, classes=classes, linear=linear, **top)
    arguments = {
        "name": name,
        "in_channels": in_channels,
        "classes": classes,
        "basis": basis,
        "stem": stem,
        **top,
        **options,
    }
    return described(model, "classifier", arguments)


def list_models(task: str | None = None) -> list[str]:
    """Names for `create_model`: all, or those of the task "segmentation" or "classification"."""
    names = {
        "segmentation": list(MODELS),
        "classification": [*(name for name in ENCODERS if name not in MODELS), *CLASSIFIERS],
    }
    if task is not None and task not in names:
        raise ValueError(f"task must be 'segmentation', 'classification' or None, got {task!r}")
    return names["segmentation"] + names["classification"] if task is None else names[task]


def list_encoders() -> list[str]:
    """Names for `create_encoder`."""
    return list(ENCODERS)


def list_bases() -> list[str]:
    """Names for the option `basis`; "none" is the plain convolution."""
    return [*BASES, "none"]


def _look_up(registry: Registry[Callable], name: str, *, others: Iterable[str]) -> Callable:
    """The entry; an unknown name is a ValueError that knows the other names too."""
    if name in registry:
        return registry[name]
    known = [*registry, *(other for other in others if other not in registry)]
    raise ValueError(
        f"unknown {registry.kind} {name!r}{nearest(name, known)} (known: {', '.join(known)})"
    )


BUILDERS.update(model=create_model, classifier=create_classifier, encoder=create_encoder)

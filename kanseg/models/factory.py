"""Create networks from names and options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from kanseg.bases import BASES, list_basis_options
from kanseg.encoders import (
    ENCODERS,
    Encoder,
    ExternalEncoder,
    external_encoder,
    full_encoder_name,
    is_external,
)
from kanseg.layers.grids import refine_functions
from kanseg.layers.inspection.formulas import replace_by_formulas
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
from kanseg.models.pruned import resize
from kanseg.models.segmentation import MODELS
from kanseg.utils.hub import BUILDERS, described, load_encoder
from kanseg.utils.registry import Registry, nearest

# Options of a model's own encoder, which do not apply to another encoder.
ENCODER_OPTIONS = ("width", "depth", "downsample")
MATCH_SIZE = (256, 256)
# Arguments that record what was done to a network since it was created: by `training.refine`,
# `kanseg prune` and `kanseg snap`.
CHANGES = ("refined", "pruned", "formulas")
# What `refined` can hold: arguments of `refine_functions`.
REFINABLE = ("grid_size", "degree")

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
    refined: Mapping[str, int] | None = None,
    pruned: Mapping[str, object] | None = None,
    formulas: Mapping[str, Sequence[str | None]] | None = None,
    **options: object,
) -> nn.Module:
    """Create a network by name: (B, in_channels, H, W) -> raw logits, any H and W.

    Args:
        name: one of `kanseg.list_models()`. A segmentation network returns (B, classes, H, W), a
            classifier (B, classes).
        in_channels: channels of the image.
        classes: number of logits per pixel (1 for a binary task with a sigmoid), or per image.
        basis: one of `kanseg.list_bases()`, for every convolution; "none" creates the same network
            with plain convolutions.
        stem: the first convolution, which reads the image. "auto" uses B-splines of the colors with
            share="edge", and otherwise the same convolution as everywhere; None always uses the
            same convolution; a mapping overrides options, such as
            {"basis": "rbf", "grid_range": [-3, 3]}.
        encoder: another encoder for the decoder of `unet` and `ukanet_*`: one of
            `kanseg.list_encoders()`, a name of segmentation_models.pytorch ("resnet34",
            "smp-resnet34") or of timm ("tu-convnext_tiny", "timm-convnext_tiny"), or an encoder
            module.
        encoder_depth: number of halvings of that encoder (5 by default for other libraries).
        encoder_weights: pretrained weights; None for random ones. For our encoders the folder of
            any trained network of ours, see `create_encoder`; for those of other libraries a file,
            a folder, a repository on the hub ("user/name"), or a name that the library has for its
            weights ("imagenet", a tag of timm), see `kanseg.encoders.find_encoder_weights`.
        encoder_options: options of that encoder: for ours those that differ from the network
            (basis, stem, width, ...), for timm those of the model.
        image_size: an option: height and width of the images, for the classifiers that are built
            for one size (the names in `CLASSIFIERS`).
        aux_params: {"classes": n, "pooling": "avg", "dropout": 0.2} adds a classification head to a
            segmentation network, which then returns (masks, labels), as in
            segmentation_models.pytorch.
        features_only: return the encoder only, as `create_encoder`.
        match: "params" or "macs": choose `width` so that the network has the same number of
            parameters, or multiply-adds for an image of `match_size`, as `like`, within 2 %.
        like: a network, or the arguments in which it differs from this one: {"basis": "gram"} (see
            `kanseg.models.matching`).
        match_size: height and width of the image for "macs".
        refined: {"grid_size": 12} or {"degree": 4}: refine the functions of the finished network,
            as `training.refine` does, see `kanseg.layers.refine_functions`. Refined B-splines
            have more intervals than those of a network that is created with this grid_size, since
            the grid is extended by the tails.
        pruned: the sizes of its layers after pruning (`kanseg.models.pruned.keep`), as stored with
            a pruned network.
        formulas: name of a learned activation -> families of the formulas that replace its
            functions, see `kanseg.layers.replace_by_formulas`.
        options: options of the network (width, depth, ...; for a classifier also head,
            head_dropout, pool_size), of KANConv2d (norm, activation, dropout, padding_mode, ...)
            and of the basis (degree, grid_size, ...). `share` is "channel" by default: one function
            per channel, added to the activation. With share="edge" the defaults are
            inner_channels=0.25, a bottleneck of a quarter of the channels (None for full functions
            on every edge), and base_activation="identity", since the layers have activations
            between them. `experts=4` replaces every convolution but the stem by a mixture of 4
            (`ConvExperts`), of which `top_k=2` process an image.

    Raises:
        ValueError: an unknown name or option (the message names the nearest known one), or a size
            that no width reaches.
    """
    if features_only:
        if encoder is not None or aux_params is not None or refined or formulas:
            raise ValueError(
                "features_only returns the network's own encoder: leave out encoder, aux_params,"
                " refined and formulas"
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
    if isinstance(encoder, str):
        encoder = full_encoder_name(encoder)
    if encoder is None and (encoder_depth is not None or encoder_options is not None):
        raise ValueError(
            "encoder_depth and encoder_options belong to another encoder, and none is named by"
            " encoder (as a setting model.encoder)"
        )
    options = with_default_share(name, basis, options)
    changes = {"refined": refined, "pruned": pruned, "formulas": formulas}
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
                "match changes the width of a network and its own encoder, but not of encoder=...:"
                " leave out one of them"
            )
        arguments |= {"aux_params": aux_params, "encoder_weights": encoder_weights}
        arguments |= {"match": match, "like": like, "match_size": match_size}
        return create_model(**matched(create_model, arguments), refined=refined, formulas=formulas)
    if name not in MODELS and (name in ENCODERS or name in CLASSIFIERS):
        if aux_params is not None or encoder is not None:
            raise ValueError(
                f"{name!r} is a classifier: encoder=... and aux_params belong to segmentation"
                " networks"
            )
        return create_classifier(
            **arguments,
            encoder_weights=encoder_weights,
            refined=refined,
            pruned=pruned,
            formulas=formulas,
        )
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
        # encoder_weights is not stored: a stored network has weights of its own.
        arguments |= {
            "encoder": encoder,
            "encoder_depth": encoder_depth,
            "encoder_options": encoder_options,
        }
    model = build(in_channels, classes, aux_params=aux_params, **parts)
    if encoder is None and encoder_weights is not None:
        load_encoder(model.encoder, encoder_weights)
    return _described(model, "model", arguments, changes)


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
    """Create an encoder by name: (B, in_channels, H, W) -> depth + 1 features; `.out_channels`,
    `.output_stride`.

    Arguments as in `create_model`; `depth` is the number of halvings. `weights` is the folder of
    `save_pretrained` or of a training run, of any of our networks whose encoder has the same
    architecture (classifier or segmentation network). A different number of image channels is
    adapted by `set_in_channels`.
    """
    options = with_default_share(name, basis, options)
    arguments = {"name": name, "in_channels": in_channels, "basis": basis, "stem": stem, **options}
    if match is not None or like is not None:
        arguments |= {"match": match, "like": like, "match_size": match_size, "weights": weights}
        return create_encoder(**matched(create_encoder, arguments))
    if name in CLASSIFIERS:
        raise ValueError(
            f"{name!r} is a classifier without a feature pyramid; its method `features` returns"
            " the outputs of its layers"
        )
    if is_external(name):
        raise ValueError(
            f"{name!r} is not an encoder of kanseg: use it with one of our decoders,"
            f" create_model('unet', encoder={name!r})"
        )
    check_counts(in_channels=in_channels)
    build = ENCODERS[name]
    encoder = build(in_channels, **conv_parts(build, basis, stem, options))
    load_encoder(encoder, weights)
    return described(encoder, "encoder", arguments)


def _check_replaceable(name: str, build: Callable, options: Mapping[str, object]) -> None:
    """Raise ValueError if a model cannot have another encoder, or has options for its own one."""
    if "encoder" not in keyword_names(build):
        able = [each for each in MODELS if "encoder" in keyword_names(MODELS[each])]
        raise ValueError(
            f"{name!r} cannot be combined with another encoder; the networks that can are"
            f" {', '.join(able)}"
        )
    for key in ENCODER_OPTIONS:
        if key in options:
            instead = f"encoder_options: {{{key}: ...}}"
            if key == "depth":
                instead = "encoder_depth"
            raise ValueError(
                f"{key!r} is an option of the encoder of {name!r}, which another one replaces: give"
                f" {instead} (as a setting in model.options)"
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
    """The encoder for `create_model(..., encoder=...)`; ours also get the `shared` options of the
    network.
    """
    if not isinstance(encoder, str):
        is_set_again = depth is not None or weights is not None or options is not None
        if is_set_again or encoder.in_channels != in_channels:
            raise ValueError(
                "an encoder module has its own depth, weights, options and"
                f" in_channels={encoder.in_channels}: they cannot be set again"
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
    refined: Mapping[str, int] | None = None,
    pruned: Mapping[str, object] | None = None,
    formulas: Mapping[str, Sequence[str | None]] | None = None,
    **options: object,
) -> ClassificationModel | FlatClassifier:
    """Create a classifier from any encoder of `kanseg.list_encoders()` and a head: (B, in_channels,
    H, W) -> raw logits (B, classes), any H and W.

    Or one of `CLASSIFIERS`, for images of the size `image_size`. `head`, `head_dropout` and
    `pool_size` as in `ClassificationModel`, the other arguments as in `create_model`.
    """
    options = with_default_share(name, basis, options)
    top = {"head": head, "head_dropout": head_dropout, "pool_size": pool_size}
    changes = {"refined": refined, "pruned": pruned, "formulas": formulas}
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
        return create_classifier(
            **matched(create_classifier, arguments), refined=refined, formulas=formulas
        )
    check_counts(in_channels=in_channels, classes=classes)
    if name in CLASSIFIERS:
        if encoder_weights is not None:
            raise ValueError(
                f"{name!r} has no encoder for encoder_weights={str(encoder_weights)!r}"
            )
        # These networks have their own head: options of other heads are reported as unknown.
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
        return _described(model, "classifier", arguments, changes)
    encoder = create_encoder(
        name, in_channels, basis=basis, stem=stem, weights=encoder_weights, **options
    )
    known = list(LINEAR_OPTIONS)
    if basis != "none":
        known += list_basis_options(basis)
    linear_options = {key: value for key, value in options.items() if key in known}
    linear = partial(KANLinear, basis=basis, **linear_options)
    model = ClassificationModel(encoder, classes=classes, linear=linear, **top)
    return _described(model, "classifier", arguments, changes)


def _described(
    model: nn.Module, kind: str, arguments: Options, changes: Mapping[str, Any]
) -> nn.Module:
    """Change a new network as training, pruning and snapping have done, and record its arguments.

    Args:
        model: the new network.
        kind: "model" or "classifier".
        arguments: that it was created with.
        changes: an entry for each of `CHANGES`, None for those that were not made.
    """
    if changes["refined"]:
        unknown = [key for key in changes["refined"] if key not in REFINABLE]
        if unknown:
            raise ValueError(
                f"refined holds {unknown[0]!r}{nearest(unknown[0], REFINABLE)} (known:"
                f" {', '.join(REFINABLE)})"
            )
        refine_functions(model, **changes["refined"])
    if changes["pruned"]:
        resize(model, changes["pruned"])
    if changes["formulas"]:
        replace_by_formulas(model, changes["formulas"])
    made = {key: value for key, value in changes.items() if value}
    arguments = {**arguments, **made}
    return described(model, kind, arguments)


def list_models(task: str | None = None) -> list[str]:
    """Names for `create_model`, for all tasks or for "segmentation" or "classification"."""
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
    """The entry of a registry; the error for an unknown name also suggests `others`."""
    if name in registry:
        return registry[name]
    known = list(dict.fromkeys([*registry, *others]))
    raise ValueError(
        f"unknown {registry.kind} {name!r}{nearest(name, known)} (known: {', '.join(known)})"
    )


BUILDERS.update(model=create_model, classifier=create_classifier, encoder=create_encoder)

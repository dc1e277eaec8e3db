"""External encoders: those of segmentation_models.pytorch and timm, with the interface of ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from kanseg.utils.registry import nearest

Weights = str | bool | None
# A model of timm, with or without the tag of its weights. No colon and no slash: with these timm
# looks up the hub, or reads a folder.
TIMM_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?")
# What may be asked of a model of timm: its sizes, its regularization, its layers by name. timm has
# more arguments, some of which read files, unpickle them or download (checkpoint_path, pretrained,
# pretrained_cfg, ...), and gets new ones; names of encoders and their options also come from
# checkpoints and configs that somebody else wrote.
TIMM_OPTIONS = {
    # sizes
    *("img_size", "strict_img_size", "dynamic_img_size", "dynamic_img_pad", "always_partition"),
    *("patch_size", "window_size", "window_ratio", "embed_dim", "embed_dims", "depths", "layers"),
    *("channels", "dims", "num_heads", "mlp_ratio", "mlp_ratios", "sr_ratios", "base_width"),
    *("cardinality", "reduce_first", "kernel_sizes", "output_stride", "stem_size", "stem_width"),
    *("stem_type", "stem_kernel_size", "replace_stem_pool", "avg_down", "fix_stem", "conv_mlp"),
    # regularization
    *("drop_rate", "drop_path_rate", "drop_block_rate", "proj_drop_rate", "attn_drop_rate"),
    *("pos_drop_rate", "patch_drop_rate", "init_values", "ls_init_value", "weight_init"),
    # layers
    *("act_layer", "norm_layer", "norm_eps", "aa_layer", "se_layer", "pad_type", "patch_norm"),
    *("pre_norm", "qkv_bias", "qk_norm", "class_token", "reg_tokens", "pos_embed", "use_abs_pos"),
    *("use_pos_embed", "use_rel_pos", "use_grn", "conv_bias", "global_pool", "head_init_scale"),
}


class ExternalEncoder(nn.Module):
    """An encoder of another library: (B, C, H, W) -> depth + 1 features, the image itself first;
    any H and W from 1 on.

    Feature i has `out_channels[i]` channels and size ceil(H / 2^i) x ceil(W / 2^i); 0 channels
    where the encoder has no feature of that size (vision transformers start at i = 2). The right
    and lower border of an image are repeated up to a multiple of 32.

    Args:
        body: image -> features from large to small.
        places: for each i from 1 to depth which of these it is, or None for none.
        channels: of the features 1 to depth.
        in_channels: C.
        channels_last: whether the features are (B, H, W, C).
    """

    begins_with_image = True

    def __init__(
        self,
        body: nn.Module,
        *,
        places: list[int | None],
        channels: list[int],
        in_channels: int,
        channels_last: bool = False,
    ):
        super().__init__()
        self.body = body
        self.places = places
        self.in_channels = in_channels
        self.out_channels = [in_channels, *channels]
        self.channels_last = channels_last

    @property
    def depth(self) -> int:
        """Number of halvings."""
        return len(self.places)

    @property
    def output_stride(self) -> int:
        """Pixels of the image per pixel of the deepest feature."""
        return 2**self.depth

    def forward(self, x: Tensor) -> list[Tensor]:
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"expected images of shape (B, {self.in_channels}, H, W), got {tuple(x.shape)}"
            )
        height, width = x.shape[-2:]
        # of 32 at any depth: some take larger kernels to small features
        right, below = -width % 32, -height % 32
        padded = x
        if right or below:
            padded = F.pad(x, [0, right, 0, below], mode="replicate")
        found = self.body(padded)
        features = [x]
        for i, place in enumerate(self.places, start=1):
            rows, columns = -(-height // 2**i), -(-width // 2**i)
            if place is None:
                features.append(x.new_zeros(len(x), 0, rows, columns))
                continue
            feature = found[place]
            if self.channels_last:
                feature = feature.movedim(-1, 1)
            features.append(feature[..., :rows, :columns])
        return features


def external_encoder(
    name: str, in_channels: int = 3, *, depth: int = 5, weights: Weights = None, **options: object
) -> ExternalEncoder:
    """An encoder of another library: (B, in_channels, H, W) -> depth + 1 features.

    Args:
        name: "smp-NAME" for an encoder of segmentation_models.pytorch ("smp-resnet34"), "timm-NAME"
            for a model of timm ("timm-convnext_tiny").
        in_channels: channels of the image.
        depth: halvings, 1 to 5.
        weights: pretrained weights, which are downloaded: of SMP a name such as "imagenet"; of timm
            True or a tag; None for none.
        options: of the model, for "timm-" and "smp-tu-" ({"img_size": 256, "strict_img_size":
            False} for Swin transformers).

    Raises:
        ValueError: an unknown name, a depth out of range, or a model that is no pyramid of halved
            features.
        ImportError: the library is not installed.
    """
    origin, _, rest = name.partition("-")
    if origin not in ORIGINS or not rest:
        raise ValueError(f"the name of an external encoder is smp-NAME or timm-NAME, got {name!r}")
    if isinstance(depth, bool) or not isinstance(depth, int) or not 1 <= depth <= 5:
        raise ValueError(f"depth (halvings of the image) must be 1 to 5, got {depth!r}")
    return ORIGINS[origin](rest, in_channels, depth, weights, options)


def is_external(name: str) -> bool:
    """True for a name of `external_encoder`."""
    return name.partition("-")[0] in ORIGINS and "-" in name


def _smp_encoder(
    name: str, in_channels: int, depth: int, weights: Weights, options: dict[str, object]
) -> ExternalEncoder:
    try:
        from segmentation_models_pytorch import encoders
    except ModuleNotFoundError as error:
        raise ImportError(
            "encoders called smp-NAME need segmentation-models-pytorch: python -m pip install"
            " segmentation-models-pytorch"
        ) from error
    if name.startswith("tu-"):
        _check_timm_name(name.removeprefix("tu-"))
        _check_timm_options(name, options)
    elif name not in encoders.encoders and not _is_renamed(name):
        raise ValueError(
            f"segmentation_models.pytorch has no encoder {name!r}{nearest(name, encoders.encoders)}"
        )
    if options and not name.startswith("tu-"):
        raise ValueError(
            f"segmentation_models.pytorch has no options for {name!r} (it would drop them), got"
            f" {', '.join(options)}"
        )
    known = encoders.encoders.get(name, {}).get("pretrained_settings")
    if weights is not None and known is not None and weights not in known:
        raise ValueError(
            f"segmentation_models.pytorch has no weights {weights!r} of {name!r}"
            f" (known: {', '.join(known) or 'none'})"
        )
    body = encoders.get_encoder(
        name, in_channels=in_channels, depth=depth, weights=weights, **options
    )
    channels = list(body.out_channels[1 : depth + 1])
    places = [i if c > 0 else None for i, c in enumerate(channels, start=1)]
    return ExternalEncoder(body, places=places, channels=channels, in_channels=in_channels)


def _is_renamed(name: str) -> bool:
    """True for an old name of SMP, such as "timm-resnest14d", that it turns into a timm model."""
    if not name.startswith("timm-"):
        return False
    from timm import is_model

    rest = name.removeprefix("timm-")
    return bool(TIMM_NAME.fullmatch(rest)) and (is_model(rest) or is_model(f"tf_{rest}"))


def _check_timm_name(name: str) -> None:
    """ValueError for what is not the name of a model in timm's own list."""
    import timm

    if not TIMM_NAME.fullmatch(name) or not timm.is_model(name.partition(".")[0]):
        raise ValueError(f"timm has no model {name!r}{nearest(name, timm.list_models())}")


def _check_timm_options(name: str, options: Mapping[str, object]) -> None:
    """ValueError for an option outside of `TIMM_OPTIONS`, or one that is no plain value."""
    for key, value in options.items():
        if key not in TIMM_OPTIONS:
            hint = nearest(key, TIMM_OPTIONS)
            if "pretrained" in key or "checkpoint" in key:
                hint += "; encoder_weights asks for pretrained weights"
            raise ValueError(f"{key!r} is not an option that {name!r} can be given here{hint}")
        values = value if isinstance(value, (list, tuple)) else [value]
        if not all(isinstance(each, (str, int, float, type(None))) for each in values):
            raise ValueError(f"option {key!r} of {name!r} must be a number, a name or a list")


def _timm_encoder(
    name: str, in_channels: int, depth: int, weights: Weights, options: dict[str, object]
) -> ExternalEncoder:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ImportError(
            "encoders called timm-NAME need timm: python -m pip install timm"
        ) from error
    _check_timm_name(name)
    _check_timm_options(name, options)
    if isinstance(weights, str):
        name = f"{name}.{weights}"
        _check_timm_name(name)
        tagged = timm.list_models(name.partition(".")[0] + ".*", pretrained=True)
        if name not in tagged:
            raise ValueError(
                f"timm has no weights {weights!r}{nearest(name, tagged)} (known:"
                f" {', '.join(tagged) or 'none'})"
            )
    build = partial(
        timm.create_model,
        name,
        features_only=True,
        in_chans=in_channels,
        pretrained=bool(weights),
        **options,
    )
    body = build()
    strides = body.feature_info.reduction()
    places = [strides.index(2**i) if 2**i in strides else None for i in range(1, depth + 1)]
    if places[-1] is None:
        raise ValueError(
            f"timm's {name} has features of strides {strides}, none of {2**depth}: choose another"
            " depth"
        )
    kept = [place for place in places if place is not None]
    if kept != list(range(len(strides))):  # leave out what nobody reads
        body = build(out_indices=tuple(kept))
        places = [None if place is None else kept.index(place) for place in places]
    found = body.feature_info.channels()
    channels = [0 if place is None else found[place] for place in places]
    last = str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC")
    return ExternalEncoder(
        body, places=places, channels=channels, in_channels=in_channels, channels_last=last
    )


ORIGINS: dict[str, Callable[..., ExternalEncoder]] = {"smp": _smp_encoder, "timm": _timm_encoder}

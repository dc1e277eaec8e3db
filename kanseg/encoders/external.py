"""Encoders of segmentation_models.pytorch and timm, with the interface of our encoders."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from kanseg.utils.registry import nearest

Weights = str | bool | None
# A model of timm, optionally with the tag of its weights. Colons and slashes are not allowed: with
# these timm would load from the hub or from a folder.
TIMM_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?")
# Allowed options of a timm model. timm has more arguments, and gets new ones; some of them read
# files, unpickle or download (checkpoint_path, pretrained, pretrained_cfg, ...). Options may come
# from checkpoints and configs of other people, so only known ones are accepted.
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
    """An encoder of another library: (B, C, H, W) -> depth + 1 features, the image first; any H and
    W from 1 on.

    Feature i has `out_channels[i]` channels and size ceil(H / 2^i) x ceil(W / 2^i); it has 0
    channels if the encoder has no feature of that size (vision transformers start at i = 2). Images
    are padded to multiples of 32 by repeating the right and lower border.

    Args:
        body: image -> features from large to small.
        indices: for each i from 1 to depth the index of its feature in the output of `body`, or
            None.
        channels: channels of the features 1 to depth.
        in_channels: C.
        channels_last: True if the features of `body` are (B, H, W, C).
    """

    begins_with_image = True

    def __init__(
        self,
        body: nn.Module,
        *,
        indices: list[int | None],
        channels: list[int],
        in_channels: int,
        channels_last: bool = False,
    ):
        super().__init__()
        self.body = body
        self.indices = indices
        self.in_channels = in_channels
        self.out_channels = [in_channels, *channels]
        self.channels_last = channels_last

    @property
    def depth(self) -> int:
        """Number of halvings."""
        return len(self.indices)

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
        # 32 at any depth: some encoders apply large kernels to small features.
        right, bottom = -width % 32, -height % 32
        padded = x
        if right or bottom:
            padded = F.pad(x, [0, right, 0, bottom], mode="replicate")
        outputs = self.body(padded)
        features = [x]
        for i, index in enumerate(self.indices, start=1):
            rows, columns = -(-height // 2**i), -(-width // 2**i)
            if index is None:
                features.append(x.new_zeros(len(x), 0, rows, columns))
                continue
            feature = outputs[index]
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
        depth: number of halvings, 1 to 5.
        weights: pretrained weights to download: a name such as "imagenet" for SMP, True or a tag
            for timm; None for random weights.
        options: options of the model, for "timm-" and "smp-tu-" (for Swin transformers
            {"img_size": 256, "strict_img_size": False}).

    Raises:
        ValueError: an unknown name or option, a depth out of range, or a model without a feature of
            that depth.
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
            f"segmentation_models.pytorch ignores options of {name!r}, got {', '.join(options)}"
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
    indices: list[int | None] = []
    for i, num_channels in enumerate(channels, start=1):
        indices.append(i if num_channels > 0 else None)
    return ExternalEncoder(body, indices=indices, channels=channels, in_channels=in_channels)


def _is_renamed(name: str) -> bool:
    """True for an old name in SMP that now means a timm model, such as "timm-resnest14d"."""
    if not name.startswith("timm-"):
        return False
    from timm import is_model

    rest = name.removeprefix("timm-")
    return bool(TIMM_NAME.fullmatch(rest)) and (is_model(rest) or is_model(f"tf_{rest}"))


def _check_timm_name(name: str) -> None:
    """Raise ValueError unless timm lists a model of this name."""
    import timm

    if not TIMM_NAME.fullmatch(name) or not timm.is_model(name.partition(".")[0]):
        raise ValueError(f"timm has no model {name!r}{nearest(name, timm.list_models())}")


def _check_timm_options(name: str, options: Mapping[str, object]) -> None:
    """Raise ValueError for options outside of `TIMM_OPTIONS`, or that are not plain values."""
    for key, value in options.items():
        if key not in TIMM_OPTIONS:
            hint = nearest(key, TIMM_OPTIONS)
            if "pretrained" in key or "checkpoint" in key:
                hint += "; use encoder_weights for pretrained weights"
            raise ValueError(f"{key!r} is not an allowed option of {name!r}{hint}")
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
    used = [strides.index(2**i) for i in range(1, depth + 1) if 2**i in strides]
    if 2**depth not in strides:
        raise ValueError(
            f"timm's {name} has features of strides {strides}, but none of {2**depth}: choose"
            " another depth"
        )
    if used != list(range(len(strides))):
        body = build(out_indices=tuple(used))  # without features that are not used
    body_channels = body.feature_info.channels()
    indices: list[int | None] = []
    channels = []
    for i in range(1, depth + 1):
        if 2**i in strides:
            index = used.index(strides.index(2**i))
            indices.append(index)
            channels.append(body_channels[index])
        else:
            indices.append(None)
            channels.append(0)
    channels_last = str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC")
    return ExternalEncoder(
        body,
        indices=indices,
        channels=channels,
        in_channels=in_channels,
        channels_last=channels_last,
    )


ORIGINS: dict[str, Callable[..., ExternalEncoder]] = {"smp": _smp_encoder, "timm": _timm_encoder}

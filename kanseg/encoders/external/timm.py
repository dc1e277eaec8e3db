"""Encoders of timm: convolutional networks, hierarchical and plain vision transformers."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kanseg.encoders.external.encoder import ExternalEncoder
from kanseg.encoders.external.tokens import TokenPyramid, token_stride
from kanseg.encoders.external.weights import (
    HubFile,
    ImageStatistics,
    misfit_error,
    misfits,
    stored_statistics,
)
from kanseg.utils.registry import nearest
from kanseg.utils.text import one_line

# A model of timm, optionally with the tag of its weights. Colons and slashes are not allowed: with
# these timm would load from the hub or from a folder.
TIMM_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?")
# Allowed options of a timm model. timm has more arguments, and gets new ones; some of them read
# files, unpickle or download (checkpoint_path, pretrained, pretrained_cfg, ...). Options may come
# from checkpoints and configs of other people, so only known ones are accepted.
OPTIONS = {
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

# Arguments of transformers that let them take images of any size, by interpolation of the position
# embeddings or by masks made for each size.
ANY_SIZE = {"dynamic_img_size": True, "strict_img_size": False}
OTHER_SIZE = (64, 96)  # of the image of a test forward pass


def check_timm_name(name: str) -> None:
    """Raise ValueError unless timm lists a model of this name."""
    timm = import_timm()

    if not TIMM_NAME.fullmatch(name) or not timm.is_model(name.partition(".")[0]):
        raise ValueError(f"timm has no model {name!r}{nearest(name, timm.list_models())}")


def check_timm_options(name: str, options: Mapping[str, object]) -> None:
    """Raise ValueError for options outside of `OPTIONS`, or that are not plain values."""
    for key, value in options.items():
        if key not in OPTIONS:
            hint = nearest(key, OPTIONS)
            if "pretrained" in key or "checkpoint" in key:
                hint += "; use encoder_weights for pretrained weights"
            raise ValueError(f"{key!r} is not an allowed option of {name!r}{hint}")
        values = value if isinstance(value, (list, tuple)) else [value]
        if not all(isinstance(each, (str, int, float, type(None))) for each in values):
            raise ValueError(f"option {key!r} of {name!r} must be a number, a name or a list")


def import_timm() -> Any:
    """The package timm; ImportError that says how to install it."""
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ImportError(
            "encoders called timm-NAME need timm: python -m pip install timm"
        ) from error
    return timm


def find_timm_weights(name: str, weights: str | bool) -> HubFile | None:
    """Where timm has the weights with a tag; True or "imagenet" for those of the name. None if it
    has none.
    """
    timm = import_timm()
    check_timm_name(name)
    base, _, tag = name.partition(".")
    if weights not in (True, "imagenet"):
        tag = str(weights)
    full_name = base
    if tag:
        full_name = f"{base}.{tag}"
    if not TIMM_NAME.fullmatch(full_name) or not timm.models.is_model_pretrained(full_name):
        return None
    config = timm.get_pretrained_cfg(full_name)
    statistics = stored_statistics(config.to_dict(), full_name)
    if config.hf_hub_id is None:
        return HubFile(full_name, url=config.url, statistics=statistics)
    # A name that ends with a slash is that of the user on the hub.
    repo, _, revision = config.hf_hub_id.partition("@")
    if repo.endswith("/"):
        repo += full_name if tag else f"{base}.{config.tag}".removesuffix(".")
    files = ["model.safetensors", "pytorch_model.bin"]
    if config.hf_hub_filename is not None:
        safe = re.sub(r"(pytorch_)?(\w*)\.bin$", r"\2.safetensors", config.hf_hub_filename)
        files = list(dict.fromkeys([safe, config.hf_hub_filename]))
    return HubFile(repo, tuple(files), revision or None, statistics=statistics)


def known_timm_weights(name: str) -> list[str]:
    """Tags of the weights of a model."""
    names = import_timm().list_models(name.partition(".")[0] + ".*", pretrained=True)
    return [each.partition(".")[2] for each in names]


def timm_statistics(name: str) -> ImageStatistics | None:
    """Mean and standard deviation of the images that timm trains a model with."""
    config = import_timm().get_pretrained_cfg(name)
    if config is None:
        return None
    return stored_statistics(config.to_dict(), name)


def timm_encoder(
    name: str,
    in_channels: int,
    depth: int,
    tensors: Mapping[str, Tensor] | None,
    options: dict[str, object],
) -> ExternalEncoder:
    """A model of timm as an encoder, with the tensors as its weights.

    Plain vision transformers become a pyramid by `TokenPyramid`; their patches of p pixels stand
    for the next power of two, to which the image is scaled. Transformers take images of any size,
    by interpolated position embeddings; the image is scaled for those that cannot.
    """
    timm = import_timm()
    check_timm_name(name)
    check_timm_options(name, options)
    config = timm.get_pretrained_cfg(name)
    is_fixed = config is not None and config.fixed_input_size
    takes_any_size = not is_fixed
    if is_fixed:
        flexible = _any_size_options(name, options)
        takes_any_size = bool(flexible)
        options = flexible | options
    build = partial(timm.create_model, name, features_only=True, in_chans=in_channels, **options)
    sketch = _sketch(build, name)
    image_size = None
    if not takes_any_size and not _takes_other_sizes(sketch, in_channels):
        image_size = _as_pair(options.get("img_size") or config.input_size[1:])
    strides = sketch.feature_info.reduction()
    is_plain = len(strides) > 1 and len(set(strides)) == 1
    if is_plain and depth > 1:
        return _token_encoder(build, sketch, name, in_channels, depth, tensors, image_size)
    if 2**depth not in strides:
        raise ValueError(
            f"timm's {name} has features of strides {strides}, but none of {2**depth}: choose"
            " another depth"
        )
    used = [strides.index(2**i) for i in range(1, depth + 1) if 2**i in strides]
    if used != list(range(len(strides))):
        build = partial(build, out_indices=tuple(used))  # without features that are not used
    body = build_with_weights(build, name, tensors)
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
    return ExternalEncoder(
        body,
        indices=indices,
        channels=channels,
        in_channels=in_channels,
        channels_last=str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC"),
        image_size=image_size,
    )


def _token_encoder(
    build: Callable[..., nn.Module],
    sketch: nn.Module,
    name: str,
    in_channels: int,
    depth: int,
    tensors: Mapping[str, Tensor] | None,
    image_size: tuple[int, int] | None,
) -> ExternalEncoder:
    """A plain vision transformer, whose tokens of evenly spaced blocks become the features."""
    num_blocks, num_levels = len(sketch.model.feature_info), depth - 1
    if num_blocks < num_levels:
        raise ValueError(
            f"timm's {name} has {num_blocks} blocks, too few for {num_levels} features: choose a"
            " smaller depth"
        )
    blocks = tuple(num_blocks * (i + 1) // num_levels - 1 for i in range(num_levels))
    patch_size, width = sketch.feature_info.reduction()[0], sketch.feature_info.channels()[0]
    stride = token_stride(patch_size)
    pyramid = TokenPyramid(width, stride=stride, depth=depth)
    return ExternalEncoder(
        build_with_weights(partial(build, out_indices=blocks), name, tensors),
        indices=[None, *range(num_levels)],
        channels=[0, *pyramid.out_channels],
        in_channels=in_channels,
        pyramid=pyramid,
        scale=None if patch_size == stride else (patch_size, stride),
        image_size=image_size,
    )


def _any_size_options(name: str, options: Mapping[str, object]) -> dict[str, object]:
    """The arguments that let a model take images of any size, if it has such."""
    try:
        with torch.device("meta"):
            model = import_timm().create_model(name, **options)
    except NotImplementedError:  # cannot be built on the device meta
        return {}
    known = inspect.signature(type(model).__init__).parameters
    for key, value in ANY_SIZE.items():
        if key in known:
            return {key: value}
    return {}


def _sketch(build: Callable[..., nn.Module], name: str) -> nn.Module:
    """The model without memory for its weights, to look at its features."""
    for device in ("meta", "cpu"):
        try:
            with torch.device(device), torch.random.fork_rng(devices=[]):
                return build()
        except NotImplementedError:  # cannot be built on the device meta
            continue
        except RuntimeError as error:
            raise ValueError(f"timm's {name} gives no features: {one_line(error)}") from None
    raise ValueError(f"timm's {name} gives no features")


@torch.no_grad()
def _takes_other_sizes(sketch: nn.Module, in_channels: int) -> bool:
    """True if a model takes an image of another size than that it was made for."""
    device = next(sketch.parameters()).device
    try:
        sketch(torch.empty(2, in_channels, *OTHER_SIZE, device=device))
    except (AssertionError, RuntimeError, ValueError):
        return False
    return True


def _as_pair(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return (size, size)
    return (size[0], size[1])


def build_with_weights(
    build: Callable[..., nn.Module], name: str, tensors: Mapping[str, Tensor] | None
) -> nn.Module:
    """Build a model of timm, with the tensors as its weights.

    Args:
        build: takes `pretrained` and `pretrained_cfg_overlay`, as `timm.create_model`.
        name: for messages.
        tensors: the weights; None for random ones.

    Raises:
        InputError: weights that do not fit, or that lack a tensor of the features.
    """
    if tensors is None:
        return build()
    missing: dict[str, Tensor] = {}
    # timm's own loading knows the names and shapes in the files of the authors of its models.
    try:
        with _lenient_loading(missing):
            body = build(pretrained=True, pretrained_cfg_overlay={"state_dict": dict(tensors)})
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError):
        wanted = build().state_dict()
        missing = misfits(tensors, wanted) or wanted
        raise misfit_error(name, tensors, missing, len(wanted)) from None
    own = {id(tensor) for tensor in (*body.parameters(), *body.buffers())}
    missing = {key: tensor for key, tensor in missing.items() if id(tensor) in own}
    if missing:
        raise misfit_error(name, tensors, missing, len(body.state_dict()))
    return body


@contextmanager
def _lenient_loading(missing: dict[str, Tensor]) -> Iterator[None]:
    """Let `load_state_dict` accept missing and further names and other shapes, and collect the
    tensors that were not loaded: timm drops the layers behind the features after it has loaded the
    weights, and says only in a log what was missing.
    """
    original = nn.Module.load_state_dict

    def load(self: nn.Module, state_dict: Mapping[str, Any], *_: object, **__: object) -> Any:
        tensors = dict([*self.named_parameters(), *self.named_buffers()])
        unfit = misfits(state_dict, tensors)
        missing.update(unfit)
        fitting = {key: value for key, value in state_dict.items() if key not in unfit}
        result = original(self, fitting, strict=False)
        result.unexpected_keys.clear()  # timm would log all of them
        return result

    nn.Module.load_state_dict = load
    try:
        yield
    finally:
        nn.Module.load_state_dict = original

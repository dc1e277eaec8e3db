"""Convert the weights of a layer of torch-conv-kan to the layout of ours."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from kanseg.compat.torch_conv_kan.layer import _LegacyLayer

StateDict = Mapping[str, Tensor]


def convert_layer(
    state_dict: StateDict, layer: _LegacyLayer, *, prefix: str = ""
) -> dict[str, Tensor]:
    """Convert the state dict of one layer of torch-conv-kan for `layer.load_state_dict`.

    Affine parameters of a norm that are missing become 1 and 0, and the weights of degrees above
    the stored ones become 0. Neither changes the function.

    Args:
        state_dict: keys relative to the layer.
        layer: a layer of this package.
        prefix: prefix of the keys in messages.

    Raises:
        ValueError: as of `convert_state_dict`.
    """
    if layer.family == "KABN":
        raise ValueError(
            "the Bernstein functions (KABN) of torch-conv-kan are all constant 1 because of a bug,"
            f" so the weights of {prefix or 'this layer'} cannot be converted; train the layer"
            " again"
        )
    target = layer.state_dict()
    parts: dict[str, dict[tuple[int, int], Tensor]] = defaultdict(dict)
    sources: dict[str, str] = {}
    for key, value in state_dict.items():
        if key.endswith("bernstein_coeffs"):
            raise ValueError(
                f"{prefix}{key} belongs to torch-conv-kan's KABN, whose Bernstein functions are all"
                " constant 1 because of a bug; it cannot be converted"
            )
        if _is_constant(key, value, layer, prefix + key):
            continue
        new, index, convert = _find_rule(key)
        if new not in target:
            raise ValueError(
                f"unknown key {prefix + key!r} in the state dict: {type(layer).__name__} has no"
                " such weight; build it with the options of the original"
            )
        parts[new][index] = convert(value, layer, prefix + key)
        sources[new] = prefix + key
    converted: dict[str, Tensor] = {}
    for key, pieces in parts.items():
        ordered = [pieces[index] for index in sorted(pieces)]
        # A single part may be a scalar, which torch.cat refuses.
        converted[key] = ordered[0] if len(ordered) == 1 else torch.cat(ordered)
    for key, value in target.items():
        if key not in converted:
            converted[key] = _fill(key, value, layer, prefix)
        if key == "basis.beta_weights":
            converted[key] = _pad(converted[key], 0, len(value), sources[key])
        if converted[key].shape != value.shape:
            raise ValueError(
                f"{sources[key]!r} does not fit: {type(layer).__name__} needs {key!r} of shape"
                f" {tuple(value.shape)}, got {tuple(converted[key].shape)}"
            )
    return {key: value.clone() for key, value in converted.items()}


def _fill(key: str, value: Tensor, layer: _LegacyLayer, prefix: str) -> Tensor:
    """The value of an entry that the state dict does not have; ValueError for a weight."""
    if re.fullmatch(r"norm\.\d+\.(weight|bias)", key):
        return torch.full_like(value, 1.0 if key.endswith("weight") else 0.0)
    if key.startswith("basis.") and key not in dict(layer.named_parameters()):
        return value  # a constant, which torch-conv-kan does not store
    raise ValueError(
        f"the state dict has no entry for {prefix + key!r} of {type(layer).__name__}: are these the"
        " weights of another layer?"
    )


def _pad(weight: Tensor, dim: int, size: int, key: str) -> Tensor:
    """Append zeros along an axis, for functions of higher degrees."""
    count = weight.shape[dim]
    if count > size:
        raise ValueError(
            f"{key!r} has {count} functions per channel (or coefficients), but the layer has"
            f" {size}: build it with the higher degree"
        )
    zeros = weight.new_zeros(*weight.shape[:dim], size - count, *weight.shape[dim + 1 :])
    return torch.cat([weight, zeros], dim)


# Conversions (value, layer, key) -> value in our layout, for each group of a layer.
def _plain(value: Tensor, layer: _LegacyLayer, key: str) -> Tensor:
    return value


def _one_basis(weight: Tensor, layer: _LegacyLayer, key: str) -> Tensor:
    """(O, C, K, *kernel) -> (O, C * K', *kernel), with zeros up to the degree of the layer."""
    functions = layer.basis.num_functions
    if layer.variant.nested:
        weight = _pad(weight, 2, functions, key)
    elif weight.shape[2] != functions:
        raise ValueError(
            f"{key!r} has {weight.shape[2]} functions per channel, but the layer has {functions}:"
            " build it with the grid of the original"
        )
    return weight.flatten(1, 2)


def _split(weight: Tensor, layer: _LegacyLayer, key: str, *, degree_major: bool) -> Tensor:
    """(O, C * K, *kernel) -> (O, C, K, *kernel), from channel-major or degree-major order."""
    channels = layer.basis_conv.weight.shape[1] // layer.basis.num_functions
    if weight.shape[1] % channels:
        raise ValueError(
            f"{key!r} of shape {tuple(weight.shape)} does not fit {type(layer).__name__}: its"
            f" second axis is not a multiple of {channels} channels"
        )
    if degree_major:
        return weight.unflatten(1, (-1, channels)).transpose(1, 2)
    return weight.unflatten(1, (channels, -1))


def _channel_major(weight: Tensor, layer: _LegacyLayer, key: str) -> Tensor:
    return _one_basis(_split(weight, layer, key, degree_major=False), layer, key)


def _grouped(weight: Tensor, layer: _LegacyLayer, key: str) -> Tensor:
    """(G, O / G, C * K / G, *kernel), channel-major or degree-major."""
    degree_major = layer.variant.degree_major
    separate = _split(weight.flatten(0, 1), layer, key, degree_major=degree_major)
    return _one_basis(separate, layer, key)


def _pairs(value: Tensor, layer: _LegacyLayer, key: str) -> Tensor:
    """(1, A, B, 1, ..., 1) or (A, B) -> (A, B)."""
    return value.flatten(2).flatten(0, 1) if value.dim() > 2 else value


def _depthwise(weight: Tensor, layer: _LegacyLayer, key: str) -> Tensor:
    """(O, 1, C, *kernel), of a convolution with one more axis, or (O, C, *kernel) -> the latter."""
    return weight.squeeze(1) if weight.dim() == layer.ndim + 3 else weight


Conversion = Callable[[Tensor, _LegacyLayer, str], Tensor]
# (pattern of torch-conv-kan's key, our key, conversion). i and j number the parts of a tensor,
# which are concatenated; rest is appended to our key.
_RULES: tuple[tuple[str, str, Conversion], ...] = (
    (r"base_conv\.(?P<i>\d+)\.weight", "base_conv.weight", _plain),
    (r"base_weights?|weight1|base_linear\.weight", "base_conv.weight", _plain),
    (r"base_linear\.bias", "base_conv.bias", _plain),
    (
        r"(spline_conv|relukan_conv|poly_conv)\.(?P<i>\d+)\.weight",
        "basis_conv.weight",
        _channel_major,
    ),
    (r"poly_weights", "basis_conv.weight", _grouped),
    (r"poly_weight|spline_linear\.weight", "basis_conv.weight", _channel_major),
    (  # (C, O, K)
        r"cheby_coeffs|jacobi_coeffs|grams_basis_weights",
        "basis_conv.weight",
        lambda weight, layer, key: _one_basis(weight.transpose(0, 1), layer, key),
    ),
    (  # (O, C, K), or (O, 1, K, C) with each row in channel-major order
        r"spline_weight|equal_size_conv\.weight",
        "basis_conv.weight",
        lambda weight, layer, key: weight.flatten(1),
    ),
    (r"equal_size_conv\.bias", "basis_conv.bias", _plain),
    (r"inner_proj\.(?P<i>\d+)\.weight", "squeeze.weight", _plain),
    (r"out_proj\.(?P<i>\d+)\.weight", "expand.weight", _plain),
    (r"inner_proj\.(?P<rest>weight|bias)", "squeeze.", _plain),
    (r"outer_proj\.(?P<rest>weight|bias)", "expand.", _plain),
    (r"beta_weights", "basis.beta_weights", _plain),
    (r"(?P<rest>phase_low|phase_high)", "basis.", _pairs),
    (r"(wavelet_conv\.(?P<i>\d+)\.)?(?P<rest>scale|translation)", "basis.", _pairs),
    (
        r"wavelet_conv\.(?P<i>\d+)\.wavelet_weights\.((?P<j>\d+)\.)?weight",
        "basis_conv.weight",
        _depthwise,
    ),
    (r"wavelet_conv\.(?P<i>\d+)\.wavelet_out\.weight", "expand.weight", _plain),
    (r"wavelet_weights", "basis_conv.weight", _plain),
    (r"layer_norm\.(?P<rest>\d+\..+)", "norm.", _plain),
    (r"(layer_norm|layernorm|norm|bn)\.(?P<rest>.+)", "norm.0.", _plain),
    (r"prelus\.(?P<rest>\d+\.weight)", "activation.", _plain),
    (r"prelu\.weight", "activation.0.weight", _plain),
)


def _find_rule(key: str) -> tuple[str | None, tuple[int, int], Conversion]:
    """Our name of a key (None without a rule), the index of the part, and the conversion."""
    for pattern, new, convert in _RULES:
        match = re.fullmatch(pattern, key)
        if match:
            found = match.groupdict()
            index = int(found.get("i") or 0), int(found.get("j") or 0)
            return new + (found.get("rest") or ""), index, convert
    return None, (0, 0), _plain


def _is_constant(key: str, value: Tensor, layer: _LegacyLayer, name: str) -> bool:
    """True for an entry that follows from the options of the layer; ValueError if it contradicts
    them.
    """
    if key == "arange" and layer.family == "KACN":
        return True
    if key != "rbf.grid" or layer.family != "FastKAN":
        return False
    expected = torch.linspace(*layer.options["grid_range"], layer.options["grid_size"])
    if value.shape != expected.shape or not torch.allclose(
        value.float().cpu(), expected, atol=1e-5
    ):
        raise ValueError(
            f"{name!r} is not the grid of {type(layer).__name__}: build it with the grid_range and"
            " grid_size of the original"
        )
    return True

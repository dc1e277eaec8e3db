"""Find the width at which a network has the same size as another, for fair comparisons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from math import inf, log
from typing import Any

import torch
from torch import nn

from kanseg.bases import list_basis_options
from kanseg.models.operations import device_and_dtype, multiply_adds, num_parameters

TOLERANCE = 0.02
GOOD_ENOUGH = 0.005  # relative error of the size at which the search stops
START_WIDTH = 16.0
# Widths with a smaller relative difference give nearly the same network.
FINEST_STEP = 1 / 512
WEIGHTS = ("encoder_weights", "weights")
Arguments = dict[str, Any]
Create = Callable[..., nn.Module]


def matched(create: Create, arguments: Mapping[str, Any]) -> Arguments:
    """Replace `match`, `like` and `match_size` in arguments of `create` by the matching `width`.

    Args:
        create: `create_model`, `create_classifier` or `create_encoder`.
        arguments: arguments of `create`. `match` is "params" or "macs" (multiply-adds of a forward
            pass for an image of `match_size`, including the evaluation of the functions). `like` is
            a network, or a mapping of the arguments in which the reference network differs; the
            width given is that of the reference. An option that only one of the two bases has is
            used for that network only.

    Raises:
        ValueError: `match` without `like` or vice versa, an unknown measure, a width together with
            a network, or a size that cannot be reached within 2 %; the message names the nearest
            sizes.
    """
    plain = dict(arguments)
    match = plain.pop("match", None)
    like = plain.pop("like", None)
    match_size = plain.pop("match_size", None) or (256, 256)
    if match is None and like is None:
        return plain
    if match not in MEASURES or not isinstance(like, (nn.Module, Mapping)):
        raise ValueError(
            "match must be 'params' or 'macs', and like a network or a mapping of the arguments"
            f" that differ, such as {{'basis': 'gram'}}; got match={match!r}, like={str(like)[:80]}"
        )
    # Stored weights have one width only, and are not needed to count.
    weights = {name: plain.pop(name) for name in WEIGHTS if name in plain}
    measure, unit = MEASURES[match]
    if isinstance(like, nn.Module):
        if "width" in plain:
            raise ValueError("match determines the width: leave out `width` if `like` is a network")
        wanted = measure(like, _input_shape(plain, match_size))
    else:
        plain, other = _split_options(plain, like)
        wanted = measure(_on_meta(create, other), _input_shape(other, match_size))
    start = float(plain.pop("width", START_WIDTH))
    shape = _input_shape(plain, match_size)

    def size(width: float) -> int:
        return measure(_on_meta(create, plain | {"width": width}), shape)

    width = solve_width(size, wanted, start, what=unit)
    if width.is_integer():
        width = int(width)
    return plain | weights | {"width": width}


def solve_width(
    size: Callable[[float], int],
    wanted: int,
    start: float = START_WIDTH,
    *,
    tolerance: float = TOLERANCE,
    what: str = "",
) -> float:
    """Find the width of at least 1 at which a network has the wanted size.

    Args:
        size: width -> size, which grows with the width.
        wanted: the wanted size.
        start: the first width to try.
        tolerance: largest relative error of the size; inf for the nearest possible size.
        what: unit of the size, for the error message.

    Raises:
        ValueError: no width comes within the tolerance.
    """
    low, high, width = 1.0, inf, max(start, 1.0)
    sizes: dict[float, int] = {}
    while width not in sizes:
        sizes[width] = size(width)
        if abs(sizes[width] - wanted) <= GOOD_ENOUGH * wanted:
            break
        if sizes[width] < wanted:
            low = width
        else:
            high = width
        if high - low > FINEST_STEP * low:
            width = _next_width(low, high, width, wanted, sizes)
    by_distance = sorted(sizes, key=lambda width: abs(sizes[width] - wanted))
    best = by_distance[0]
    if abs(sizes[best] - wanted) <= tolerance * wanted or tolerance == inf:
        return best
    below = [width for width in by_distance if sizes[width] < wanted]
    above = [width for width in by_distance if sizes[width] > wanted]
    nearest = [f"{sizes[width]:,} (width {width:g})" for width in sorted(below[:1] + above[:1])]
    raise ValueError(
        f"no width gives {wanted:,} {what} within {tolerance:.0%}; the nearest possible sizes are:"
        f" {' and '.join(nearest)}"
    )


def _next_width(
    low: float, high: float, last: float, wanted: int, sizes: Mapping[float, int]
) -> float:
    """The next width to try, between one that is too small and one that is too large.

    Assumes that the size is a power of the width: the square at first, then the power between the
    sizes of the two ends.
    """
    power = 2.0
    if low in sizes and high in sizes:
        power = log(sizes[high] / sizes[low]) / log(high / low)
    if power > 0:
        guess = round(last * (wanted / sizes[last]) ** (1 / power), 3)
        if low < guess < high and guess not in sizes:
            return guess
    if high == inf:
        return 2 * low
    if low not in sizes:
        return low
    return (low + high) / 2


def _input_shape(arguments: Arguments, match_size: Sequence[int]) -> tuple[int, ...]:
    """(1, C, H, W), with the network's own image size if it has one."""
    image_size = arguments.get("image_size") or match_size
    return (1, arguments["in_channels"], *image_size)


def _on_meta(create: Create, arguments: Arguments) -> nn.Module:
    """Create a network on the meta device, without memory for its weights."""
    with torch.device("meta"):
        return create(**arguments)


def _count_multiply_adds(model: nn.Module, shape: Sequence[int]) -> int:
    """Multiply-adds of a forward pass.

    A network on the meta device is run with fake CPU tensors, since there is no autocast for meta.
    """
    if device_and_dtype(model)[0].type != "meta":
        return multiply_adds(model, shape)
    from torch._subclasses import FakeTensorMode
    from torch._subclasses.fake_tensor import DataDependentOutputException

    fake = deepcopy(model)
    try:
        with torch.device("cpu"), FakeTensorMode(allow_non_fake_inputs=True):
            return multiply_adds(fake.to_empty(device="cpu"), shape)
    except DataDependentOutputException:  # mixtures of experts need to know the chosen experts
        real = model.to_empty(device="cpu")
        with torch.no_grad():
            for tensor in (*real.parameters(), *real.buffers()):
                tensor.zero_()
        return multiply_adds(real, shape)


# name -> ((network, input shape) -> size, unit)
MEASURES: dict[str, tuple[Callable[[nn.Module, Sequence[int]], int], str]] = {
    "params": (lambda model, shape: num_parameters(model), "parameters"),
    "macs": (_count_multiply_adds, "multiply-adds"),
}


def _split_options(given: Arguments, like: Mapping[str, Any]) -> tuple[Arguments, Arguments]:
    """Split arguments into those of the new network and of the reference network; an option that
    only one of their bases has goes to that network.
    """
    other = given | dict(like)
    known, known_to_other = _options_of(given["basis"]), _options_of(other["basis"])
    ours, theirs = {}, {}
    for key, value in given.items():
        if key in known or key not in known_to_other:
            ours[key] = value
    for key, value in other.items():
        if key in like or key in known_to_other or key not in known:
            theirs[key] = value
    return ours, theirs


def _options_of(basis: str) -> set[str]:
    if basis == "none":
        return set()
    return set(list_basis_options(basis))

"""Fair comparison: the width at which one network is as large as another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from math import inf, log
from typing import Any

import torch
from torch import nn

from kanseg.bases import list_basis_options
from kanseg.models.operations import multiply_adds, num_parameters, place

TOLERANCE = 0.02
CLOSE = 0.005  # of the wanted size: nearer is not looked for
START = 16.0
FINEST = (
    1 / 512
)  # shares of a width; nearer to each other than this two widths make the same network, or nearly
WEIGHTS = ("encoder_weights", "weights")
Arguments = dict[str, Any]
Create = Callable[..., nn.Module]


def matched(create: Create, arguments: Mapping[str, Any]) -> Arguments:
    """Arguments of `create` with `match`, `like` and `match_size` turned into the `width` that they
    ask for.

    Args:
        create: `create_model` or `create_encoder`.
        arguments: of it. `match`: "params" or "macs" (multiply-adds of a forward pass for an image
            of `match_size`, evaluating the functions included). `like`: a network, or a mapping of
            the arguments in which the network to be matched differs: it has all others too, and its
            own width is the one given. An option that only one of their two bases knows goes to
            that one.

    Raises:
        ValueError: one of the two without the other, another measure, a width beside a network, or
            a size that cannot be reached within 2 %; the
            message tells the nearest that can.
    """
    plain = dict(arguments)
    match, like, match_size = (plain.pop(name, None) for name in ("match", "like", "match_size"))
    weights = {
        name: plain.pop(name) for name in WEIGHTS if name in plain
    }  # which fit one width only, and are not needed to count
    if match is None and like is None:
        return plain | weights
    if match not in MEASURES or not isinstance(like, (nn.Module, Mapping)):
        raise ValueError(
            "match must be 'params' or 'macs', and like a network or a mapping of the arguments"
            f" that differ, such as {{'basis': 'gram'}}; got match={match!r}, like={str(like)[:80]}"
        )
    if isinstance(like, nn.Module) and "width" in plain:
        raise ValueError("match solves the width: leave `width` out beside a network to be like")
    size = MEASURES[match]
    match_size = (256, 256) if match_size is None else match_size
    shape = _shape(plain, match_size)
    if isinstance(like, nn.Module):
        wanted = size(like, shape)
    else:
        plain, other = _apart(plain, like)
        wanted = size(_imagined(create, other), _shape(other, match_size))
    start = float(plain.pop("width", START))
    width = solve_width(
        lambda width: size(_imagined(create, plain | {"width": width}), shape),
        wanted,
        start,
        what=WORDS[match],
    )
    return plain | weights | {"width": int(width) if width.is_integer() else width}


def solve_width(
    size: Callable[[float], int],
    wanted: int,
    start: float = START,
    *,
    what: str = "",
    tolerance: float = TOLERANCE,
) -> float:
    """The width from 1 on at which size(width), which grows, comes nearest to what is wanted;
    ValueError if that is not within `tolerance`, a share of it.
    """
    low, high, width = 1.0, inf, max(start, 1.0)
    tried: dict[float, int] = {}
    while width not in tried:
        tried[width] = size(width)
        if abs(tried[width] - wanted) <= CLOSE * wanted:
            break
        low, high = (width, high) if tried[width] < wanted else (low, width)
        if high - low > FINEST * low:
            width = _between(low, high, width, wanted, tried)
    best = min(tried, key=lambda width: abs(tried[width] - wanted))
    if abs(tried[best] - wanted) <= tolerance * wanted:
        return best
    sides = [[w for w in tried if tried[w] < wanted], [w for w in tried if tried[w] > wanted]]
    nearest = [min(side, key=lambda width: abs(tried[width] - wanted)) for side in sides if side]
    told = " and ".join(f"{tried[width]:,} (width {width:g})" for width in sorted(nearest))
    raise ValueError(
        f"no width gives {wanted:,} {what} within {tolerance:.0%}; the nearest that can be reached:"
        f" {told}"
    )


def _between(
    low: float, high: float, last: float, wanted: int, tried: Mapping[float, int]
) -> float:
    """The next width to try. Sizes grow as a power of the width: with its square at first, then as
    between the ends that were tried.
    """
    power = 2.0
    if low in tried and high in tried:
        power = log(tried[high] / tried[low]) / log(high / low)
    guess = round(last * (wanted / tried[last]) ** (1 / power), 3) if power > 0 else low
    if low < guess < high and guess not in tried:
        return guess
    if high == inf:
        return 2 * low
    return low if low not in tried else (low + high) / 2


def _shape(arguments: Arguments, match_size: Sequence[int]) -> tuple[int, ...]:
    """Of an image of `match_size`, or of the size that the network is built for."""
    return (1, arguments["in_channels"], *(arguments.get("image_size") or match_size))


def _imagined(create: Create, arguments: Arguments) -> nn.Module:
    """The network without its memory."""
    with torch.device("meta"):
        return create(**arguments)


def _imagined_multiply_adds(model: nn.Module, shape: Sequence[int]) -> int:
    """Without computing anything where the network is imagined: fake tensors say that they are on a
    CPU, where autocast can be asked for.
    """
    if place(model)[0].type != "meta":
        return multiply_adds(model, shape)
    from torch._subclasses import FakeTensorMode
    from torch._subclasses.fake_tensor import DataDependentOutputException

    fake = deepcopy(model)
    try:
        with torch.device("cpu"), FakeTensorMode(allow_non_fake_inputs=True):
            return multiply_adds(fake.to_empty(device="cpu"), shape)
    except DataDependentOutputException:  # mixtures of experts ask which ones are chosen
        real = model.to_empty(device="cpu")
        with torch.no_grad():
            for tensor in (*real.parameters(), *real.buffers()):
                tensor.zero_()
        return multiply_adds(real, shape)


MEASURES: dict[str, Callable[[nn.Module, Sequence[int]], int]] = {
    "params": lambda model, _: num_parameters(model),
    "macs": _imagined_multiply_adds,
}
WORDS = {"params": "parameters", "macs": "multiply-adds"}


def _apart(given: Arguments, like: Mapping[str, Any]) -> tuple[Arguments, Arguments]:
    """The arguments of the network to be built, and of the one it is to be like; an option that one
    basis alone knows goes to that one.
    """
    other = given | dict(like)
    mine, theirs = (
        {} if each["basis"] == "none" else set(list_basis_options(each["basis"]))
        for each in (given, other)
    )
    ours = {key: value for key, value in given.items() if key in mine or key not in theirs}
    return ours, {
        key: value
        for key, value in other.items()
        if key in like or key in theirs or key not in mine
    }

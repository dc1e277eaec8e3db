"""Options of optimizers and schedules: their types and ranges."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping

from kanseg.utils.registry import nearest

# Type of an option's default -> what its values can be, in words and as a check.
KINDS: dict[type, tuple[str, Callable[[object], bool]]] = {
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    float: (
        "a number",
        lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    ),
    str: ("a string or null", lambda value: value is None or isinstance(value, str)),
    tuple: (
        "a list of numbers",
        lambda value: isinstance(value, (list, tuple)) and all(map(KINDS[float][1], value)),
    ),
}
# Smallest and largest value of an option (of each value in a list); the optimizer checks options
# that are not here.
SHARE, ANY, COUNT = (0.0, 1.0), (0.0, math.inf), (1, math.inf)
RANGES = {
    "betas": SHARE,
    "eps": ANY,
    "momentum": SHARE,
    "max_iter": COUNT,
    "history_size": COUNT,
    "power": ANY,
    "milestones": SHARE,
    "gamma": ANY,
    "start": SHARE,
    "end": SHARE,
    "factor": SHARE,
    "patience": ANY,
    "min_factor": SHARE,
}


def check_options(builder: Callable, what: str, options: Mapping[str, object]) -> None:
    """Check the options of an optimizer or a schedule against the signature of its builder.

    Raises:
        ValueError: an option that it does not have, or a value of a wrong type or out of range.
    """
    own = {}
    for parameter in inspect.signature(builder).parameters.values():
        is_option = parameter.kind is parameter.KEYWORD_ONLY
        if is_option and parameter.name not in ("lr", "total", "warmup"):
            own[parameter.name] = parameter.default
    for key, value in options.items():
        if key not in own:
            raise ValueError(
                f"{what} has no option {key!r}{nearest(key, own)} (it has:"
                f" {', '.join(own) or 'none'})"
            )
        kind, is_valid = KINDS[type(own[key])]
        if not is_valid(value):
            example = own[key]
            if isinstance(example, tuple):
                example = list(example)
            raise ValueError(f"{what}: {key} must be {kind}, such as {example}, got {value!r}")
        low, high = RANGES.get(key, (-math.inf, math.inf))
        numbers = value
        if not isinstance(value, (list, tuple)):
            numbers = [value]
        if key in RANGES and not all(low <= each <= high for each in numbers):
            limits = f"from {low:g} to {high:g}"
            if high == math.inf:
                limits = f"at least {low:g}"
            raise ValueError(f"{what}: {key} must be {limits}, got {value!r}")

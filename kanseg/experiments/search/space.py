"""Read the space of a search, a YAML of setting -> {low, high, log, step} or {choices: [...]}."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from kanseg.config.parser import known_keys
from kanseg.experiments.settings import with_values
from kanseg.training.run import TASKS
from kanseg.training.settings import check_settings
from kanseg.utils.errors import InputError
from kanseg.utils.reading import read_yaml
from kanseg.utils.registry import nearest
from kanseg.utils.text import one_line

KEYS = ("low", "high", "log", "step", "choices")
# Settings of the search itself: the folder of the trials, their score, and the test split.
FIXED = ("run_dir", "training.monitor", "data.test")


@dataclass(frozen=True)
class Parameter:
    """A setting of the space: a range of numbers, or choices.

    Args:
        name: name of the setting, such as training.lr.
        low, high: bounds of the range.
        log: sample on a logarithmic scale.
        step: distance between the values of the range; None for all numbers.
        choices: the values; empty for a range.
    """

    name: str
    low: float | int = 0
    high: float | int = 0
    log: bool = False
    step: float | int | None = None
    choices: tuple[Any, ...] = ()

    def sample(self, trial: Any) -> Any:
        """Sample a value for a trial."""
        if self.choices:
            labels = [_label(choice) for choice in self.choices]
            return self.value(trial.suggest_categorical(self.name, labels))
        if isinstance(self.low, int):
            return trial.suggest_int(
                self.name, self.low, self.high, log=self.log, step=self.step or 1
            )
        return trial.suggest_float(self.name, self.low, self.high, log=self.log, step=self.step)

    def value(self, stored: Any) -> Any:
        """Convert a value of the study, which stores lists and mappings as JSON, to the setting."""
        for choice in self.choices:
            if _label(choice) == stored:
                return choice
        return stored

    def corners(self) -> tuple[Any, ...]:
        """Values to validate before the search starts: the choices, or both bounds."""
        return self.choices or (self.low, self.high)


def read_space(path: Path | str, config: Any) -> dict[str, Parameter]:
    """Read a space, and validate its bounds and choices with the settings of the experiment.

    Raises:
        InputError: no such file, an unknown setting (with the nearest known one), an empty range,
            a value that the setting refuses.
    """
    try:
        content = read_yaml(Path(path))
    except (OSError, InputError) as error:
        raise InputError(f"{path}: {one_line(error, None)}") from None
    if not isinstance(content, dict) or not content:
        raise InputError(
            f"{path}: expected lines `setting: {{low, high, log, step}}` or `setting: {{choices:"
            f" [...]}}`, got {content!r:.80}"
        )
    space = {}
    for key, spec in content.items():
        name, where = str(key), str(path)
        try:
            _check_name(name, config)
            space[name] = _parameter(name, spec, _current(config, name))
            for value in space[name].corners():
                where = f"{path}: {name} = {value!r}"
                check_settings(TASKS[type(config)](with_settings(config, {name: value})))
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    return space


def with_settings(config: Any, values: Mapping[str, Any]) -> Any:
    """Copy an experiment with other values of some settings (dotted names).

    Raises:
        InputError: a value of a wrong type.
    """
    content = with_values(asdict(config), values)
    return type(config).from_yaml(yaml.safe_dump(content, sort_keys=False))


def _check_name(name: str, config: Any) -> None:
    """Raise InputError unless the experiment has such a setting. Keys of a mapping, such as
    model.options.width, are checked with their values.
    """
    known = [key for key in known_keys(type(config)) if key not in ("data", "model", "training")]
    if name in FIXED:
        raise InputError(f"{name} cannot be searched over")
    section, _, rest = name.partition(".")
    setting, _, key = rest.partition(".")
    is_key_of_mapping = key and isinstance(_current(config, f"{section}.{setting}"), dict)
    if name in known or is_key_of_mapping:
        return
    raise InputError(
        f"unknown setting {name!r}{nearest(name, known)} (all settings: --help of the training"
        " tool)"
    )


def _current(config: Any, name: str) -> Any:
    """The present value of a setting; None if it does not exist."""
    content: Any = asdict(config)
    for part in name.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


def _parameter(name: str, spec: Any, current: Any) -> Parameter:
    """A parameter from its entry in the space file; `current` is the value in the experiment."""
    if not isinstance(spec, dict):
        raise InputError(
            f"{name}: expected {{low, high, log, step}} or {{choices: [...]}}, got {spec!r:.80}"
        )
    for key in spec:
        if key not in KEYS:
            raise InputError(
                f"{name}: unknown key {key!r}{nearest(str(key), KEYS)} (known: {', '.join(KEYS)})"
            )
    if "choices" in spec:
        choices = spec["choices"]
        if len(spec) > 1 or not isinstance(choices, list) or not choices:
            raise InputError(
                f"{name}: choices must be a list, without other keys, got {spec!r:.120}"
            )
        return Parameter(name, choices=tuple(_number(choice) for choice in choices))
    low, high = _number(spec.get("low")), _number(spec.get("high"))
    log, step = spec.get("log", False), _number(spec.get("step"))
    if not _is_finite(low) or not _is_finite(high) or not low < high:
        raise InputError(f"{name}: expected numbers low < high, got low={low!r}, high={high!r}")
    if not isinstance(log, bool) or (log and (low <= 0 or step is not None)):
        raise InputError(
            f"{name}: log is true or false, needs a positive low, and takes no step, got low={low},"
            f" log={log!r}, step={step!r}"
        )
    if step is not None and not (_is_finite(step) and 0 < step <= high - low):
        raise InputError(f"{name}: step must be a number up to high - low, got {step!r}")
    are_integers = all(isinstance(number, int) for number in (low, high, step or 1))
    if are_integers and not isinstance(current, float):
        return Parameter(name, low, high, log, step)
    if step is not None:
        step = float(step)
    # For a float setting, a range from 0 to 1 means all numbers between.
    return Parameter(name, float(low), float(high), log, step)


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def _number(value: Any) -> Any:
    """Convert text such as `1e-6` to a number; other values are returned unchanged."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value


def _label(choice: Any) -> Any:
    """A choice as the study stores it: lists and mappings as JSON."""
    if choice is None or isinstance(choice, (bool, int, float, str)):
        return choice
    return json.dumps(choice)

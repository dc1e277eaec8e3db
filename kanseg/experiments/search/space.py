"""The settings that a search varies, and how: a YAML of setting -> {low, high, log, step} or
{choices: [...]}.
"""

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
from kanseg.training.run import TASKS
from kanseg.training.settings import check_settings
from kanseg.utils.errors import InputError
from kanseg.utils.reading import read_yaml
from kanseg.utils.registry import nearest

KEYS = ("low", "high", "log", "step", "choices")
FIXED = (
    "run_dir",
    "training.monitor",
    "data.test",
)  # what the trials are called by, measured by, and must not see


@dataclass(frozen=True)
class Parameter:
    """One setting of the space: a range of numbers, or choices."""

    name: str
    low: float | int = 0
    high: float | int = 0
    log: bool = False
    step: float | int | None = None
    choices: tuple[Any, ...] = ()

    def sample(self, trial: Any) -> Any:
        """A value that the study proposes."""
        if self.choices:
            return self.value(
                trial.suggest_categorical(self.name, [_label(choice) for choice in self.choices])
            )
        if isinstance(self.low, int):
            return trial.suggest_int(
                self.name, self.low, self.high, log=self.log, step=self.step or 1
            )
        return trial.suggest_float(self.name, self.low, self.high, log=self.log, step=self.step)

    def value(self, stored: Any) -> Any:
        """The value of the setting from what the study holds: plain values only, so lists and
        mappings are chosen by their text.
        """
        return next((choice for choice in self.choices if _label(choice) == stored), stored)

    def corners(self) -> tuple[Any, ...]:
        """Values that must all be usable for the search to begin."""
        return self.choices or (self.low, self.high)


def read_space(path: Path | str, config: Any) -> dict[str, Parameter]:
    """The space of a file, each end and choice of it tried against the settings of the experiment.

    Raises:
        InputError: no such file, an unknown setting (with the nearest known one), a range that is
            none, a value that the setting refuses.
    """
    try:
        content = read_yaml(Path(path))
    except (OSError, InputError) as error:
        raise InputError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not content:
        raise InputError(
            f"{path}: expected lines `setting: {{low, high, log, step}}` or `setting: {{choices:"
            f" [...]}}`, got {content!r:.80}"
        )
    space = {}
    for name, spec in content.items():
        try:
            _check_name(str(name), config)
            space[str(name)] = _parameter(str(name), spec, _current(config, str(name)))
            for value in space[str(name)].corners():
                _check_value(str(name), value, config)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    return space


def with_settings(config: Any, values: Mapping[str, Any]) -> Any:
    """The same experiment with other values of some settings (dotted names).

    Raises:
        InputError: a value of a wrong type.
    """
    content = asdict(config)
    for name, value in values.items():
        *sections, leaf = name.split(".")
        place = content
        for section in sections:
            place = place.setdefault(section, {})
        place[leaf] = value
    return type(config).from_yaml(yaml.safe_dump(content, sort_keys=False))


def _check_name(name: str, config: Any) -> None:
    """InputError unless the experiment has such a setting; what stands in a mapping
    (model.options.width) is checked by its value.
    """
    sections = {"data", "model", "training"}
    known = [key for key in known_keys(type(config)) if key not in sections]
    if name in FIXED:
        raise InputError(f"{name} cannot be searched over")
    if name in known:
        return
    content: Any = asdict(config)
    for i, part in enumerate(name.split(".")[:-1]):
        content = content.get(part)
        if not isinstance(content, dict):
            break
        if i >= 1:
            return
    raise InputError(
        f"unknown setting {name!r}{nearest(name, known)} (all settings: --help of the training"
        " tool)"
    )


def _check_value(name: str, value: Any, config: Any) -> None:
    try:
        check_settings(TASKS[type(config)](with_settings(config, {name: value})))
    except InputError as error:
        raise InputError(f"{name} = {value!r}: {error}") from None


def _current(config: Any, name: str) -> Any:
    content: Any = asdict(config)
    for part in name.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


def _parameter(name: str, spec: Any, current: Any) -> Parameter:
    if not isinstance(spec, dict):
        raise InputError(
            f"{name}: expected {{low, high, log, step}} or {{choices: [...]}}, got {spec!r:.80}"
        )
    for key in spec:
        if key not in KEYS:
            raise InputError(
                f"{name}: unknown key {key!r}{nearest(str(key), KEYS)} (known: {', '.join(KEYS)})"
            )
    spec = {
        key: [_number(item) for item in value] if isinstance(value, list) else _number(value)
        for key, value in spec.items()
    }
    if "choices" in spec:
        if len(spec) > 1 or not isinstance(spec["choices"], list) or not spec["choices"]:
            raise InputError(f"{name}: choices are a list, and stand alone, got {spec!r:.120}")
        return Parameter(name, choices=tuple(spec["choices"]))
    low, high, log, step = (
        spec.get("low"),
        spec.get("high"),
        spec.get("log", False),
        spec.get("step"),
    )
    if (
        not all(
            isinstance(end, (int, float)) and not isinstance(end, bool) and isfinite(end)
            for end in (low, high)
        )
        or not low < high
    ):
        raise InputError(f"{name}: expected numbers low < high, got low={low!r}, high={high!r}")
    if not isinstance(log, bool) or (log and (low <= 0 or step is not None)):
        raise InputError(
            f"{name}: log is true or false, needs a positive low, and takes no step, got low={low},"
            f" log={log!r}, step={step!r}"
        )
    if step is not None and (
        isinstance(step, bool) or not isinstance(step, (int, float)) or not 0 < step <= high - low
    ):
        raise InputError(f"{name}: step must be a number up to high - low, got {step!r}")
    if isinstance(current, float) or not all(
        isinstance(n, int) for n in (low, high, step or 1)
    ):  # 0 to 1 of a real setting is no coin
        return Parameter(name, float(low), float(high), log, None if step is None else float(step))
    return Parameter(name, low, high, log, step)


def _number(value: Any) -> Any:
    """YAML takes 1e-6 for a text; nobody means one."""
    return (
        float(value)
        if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value)
        else value
    )


def _label(choice: Any) -> Any:
    return (
        choice
        if choice is None or isinstance(choice, (bool, int, float, str))
        else json.dumps(choice)
    )

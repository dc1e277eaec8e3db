"""Read the YAML file of a study: data sets, variants, and what is tuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanseg.config import ClassificationConfig, Config
from kanseg.config.arguments import comma_separated
from kanseg.experiments.settings import with_values
from kanseg.utils.errors import InputError
from kanseg.utils.reading import read_yaml
from kanseg.utils.registry import nearest

Settings = Mapping[str, Any]  # section.key -> value
KEYS = {"task", "baseline", "settings", "sets", "variants", "tune", "final"}
OPTIONAL = {"task", "settings"}
TASKS = {"segmentation": Config, "classification": ClassificationConfig}
SET_KEYS = {"config", "settings"}


@dataclass(frozen=True)
class Study:
    """The content of a study file.

    Args:
        path: of the file.
        kind: of the experiments, Config or ClassificationConfig.
        baseline: the variant that the others are compared with.
        sets: name of a data set -> nested settings: its config, updated by the common settings and
            its own ones.
        variants: name -> the settings in which it differs.
        longer: name -> (variant, factor on its epochs). Longer baselines are references at equal
            CPU time; a longer variant is compared with the baseline of the same factor.
        tuned: the setting that is tuned, and its values.
        tune_seed: seed of the tuning runs.
        seeds: seeds of the final runs.
    """

    path: Path
    kind: type[Config] | type[ClassificationConfig]
    baseline: str
    sets: Mapping[str, Mapping[str, Any]]
    variants: Mapping[str, Settings]
    longer: Mapping[str, tuple[str, float]]
    tuned: tuple[str, tuple[Any, ...]]
    tune_seed: int
    seeds: tuple[int, ...]


def read_study(path: Path) -> Study:
    """Read a study file.

    Raises:
        InputError: a key, a name or a value that cannot be used.
    """
    try:
        content = read_yaml(path)
    except OSError as error:
        raise InputError(f"--study {path}: {error.strerror}") from None
    _mapping(path, "the file", content, KEYS)
    missing = sorted(KEYS - OPTIONAL - content.keys())
    if missing:
        raise InputError(f"{path}: no {', '.join(missing)}; configs/studies/ has study files")
    task = content.get("task", "segmentation")
    if task not in TASKS:
        raise InputError(f"{path}: task must be one of {', '.join(TASKS)}, got {task!r}")
    variants = {}
    for name, overrides in _mapping(path, "variants", content["variants"]).items():
        variants[_name(path, name)] = dict(overrides or {})
    baseline = content["baseline"]
    if baseline not in variants:
        raise InputError(f"{path}: baseline {baseline!r} is not one of the variants")
    common = content.get("settings") or {}
    sets = {}
    for name, entry in _mapping(path, "sets", content["sets"]).items():
        sets[_name(path, name)] = _settings_of_set(path, name, entry, common)
    tune = _mapping(path, "tune", content["tune"], {"values", "seed"})
    values = _mapping(path, "tune.values", tune.get("values"))
    tuned, choices = next(iter(values.items()), ("", None))
    if len(values) != 1 or not isinstance(choices, list) or not choices:
        raise InputError(
            f"{path}: tune.values must be one setting and its values, such as"
            " {training.lr: [1.0e-3, 3.0e-3]}"
        )
    final = _mapping(path, "final", content["final"], {"seeds", "longer"})
    seeds = final.get("seeds")
    whole = isinstance(seeds, list) and all(type(seed) is int for seed in seeds)
    if not whole or not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"{path}: final.seeds must be a list of different integers, got {seeds!r}")
    return Study(
        path=path,
        kind=TASKS[task],
        baseline=baseline,
        sets=sets,
        variants=variants,
        longer=_read_longer(path, final.get("longer") or {}, variants),
        tuned=(tuned, tuple(choices)),
        tune_seed=tune.get("seed", 0),
        seeds=tuple(seeds),
    )


def _settings_of_set(path: Path, name: str, entry: Any, common: Settings) -> dict[str, Any]:
    """The nested settings of a data set."""
    entry = _mapping(path, f"sets.{name}", entry, SET_KEYS)
    nested: dict[str, Any] = {}
    if entry.get("config") is not None:
        config = path.parent / entry["config"]
        if not config.is_file():
            raise InputError(f"{path}: sets.{name}.config: no such file: {config}")
        nested = read_yaml(config)
    return with_values(nested, {**common, **(entry.get("settings") or {})})


def _read_longer(
    path: Path, longer: Any, variants: Mapping[str, Settings]
) -> dict[str, tuple[str, float]]:
    found = {}
    for name, entry in _mapping(path, "final.longer", longer).items():
        entry = _mapping(path, f"final.longer.{name}", entry, {"variant", "epochs"})
        if name in variants:
            raise InputError(f"{path}: final.longer.{name} has the name of a variant; rename it")
        factor = entry.get("epochs")
        is_number = isinstance(factor, (int, float)) and not isinstance(factor, bool)
        if entry.get("variant") not in variants or not is_number or factor <= 0:
            raise InputError(
                f"{path}: final.longer.{name} must name a variant and a factor on its epochs, such"
                " as {variant: silu, epochs: 1.2}"
            )
        found[_name(path, name)] = (entry["variant"], float(factor))
    return found


def _name(path: Path, name: Any) -> str:
    """Check that a name can be used for a folder."""
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\\" in name:
        raise InputError(f"{path}: {name!r} must be usable as a folder name, without / or \\")
    return name


def _mapping(path: Path, where: str, value: Any, known: set[str] | None = None) -> dict[str, Any]:
    """Return the value; InputError unless it is a mapping, with `known` keys only."""
    if not isinstance(value, dict):
        raise InputError(f"{path}: {where} must hold `key: value` lines, got {value!r:.80}")
    for key in value:
        if known is not None and key not in known:
            raise InputError(
                f"{path}: unknown key {key!r} in {where}{nearest(str(key), known)} (known:"
                f" {', '.join(sorted(known))})"
            )
    return value


def chosen_names(text: str | None, known: Sequence[str], option: str) -> list[str]:
    """The names in a comma-separated list, in the order of the study file; all of them for None.

    Raises:
        InputError: an unknown name.
    """
    if text is None:
        return list(known)
    chosen = comma_separated(text)
    for name in chosen:
        if name not in known:
            raise InputError(
                f"{option}: {name!r} is not in the study{nearest(name, known)} (known:"
                f" {', '.join(known)})"
            )
    return [name for name in known if name in chosen]

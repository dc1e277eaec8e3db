"""Arms of a comparison: settings of one experiment that differ in what is compared, of one size,
each trained with several seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from kanseg.bases import BASES, list_basis_options
from kanseg.config import Config, ModelConfig, parse_config
from kanseg.experiments.search.search import MAY_DIFFER
from kanseg.training.run import train
from kanseg.training.run_folder.resume import (
    RunBusy,
    newest_complete,
    settings_changed,
    step_folders,
    stored_settings,
)
from kanseg.utils.errors import InputError
from kanseg.utils.reading import read_yaml
from kanseg.utils.registry import nearest

Log = Callable[[str], None]
TRUTH = (
    "root",
    "format",
    "train",
    "val",
    "test",
    "split_seed",
    "resize",
    "folds",
    "fold",
    "task",
    "classes",
    "mask_values",
    "ignore_index",
    "palette",
)
OWN = ("seed", "run_dir")  # of a run, which the comparison gives itself


def read_arms(
    configs: Sequence[str],
    *,
    bases: Sequence[str] = (),
    arms_file: str | None = None,
    settings: Sequence[str] = (),
) -> dict[str, Config]:
    """Name of an arm -> its settings.

    Args:
        configs: YAML files of segmentation experiments; several are an arm each.
        bases: of which each config is tried with each.
        arms_file: YAML of `arm: {section.key: value}`, each tried with each config.
        settings: words of a command line that all arms share.

    Raises:
        InputError: files or settings that cannot be used, fewer than two arms, or arms on different
            data.
    """
    given = [key for key in OWN if any(word.split("=")[0] == f"--{key}" for word in settings)]
    if given:
        raise InputError(
            f"--{given[0]} is set for each run by the comparison; give --seeds and --output"
        )
    for basis in bases:
        _known_basis(basis)
    variants = {basis: [f"--model.basis={basis}"] for basis in bases} | (
        _variants(arms_file) if arms_file else {}
    )
    arms: dict[str, Config] = {}
    for path in configs:
        for name, words in (variants or {"": []}).items():
            label = "-".join(
                part for part in (Path(path).stem if len(configs) > 1 else "", name) if part
            )
            if label in arms:
                raise InputError(
                    f"two arms are called {label!r}; give the configs different file names"
                )
            arms[label], _ = parse_config(["--config", path, *settings, *words])
    if len(arms) < 2:
        raise InputError(
            f"a comparison needs two arms or more, got {', '.join(arms) or 'one config'}; give"
            " several --config, --bases or --arms"
        )
    data = [asdict(config.data) for config in arms.values()]
    differing = sorted(
        {key for each in data for key in each if each[key] != data[0][key] and key in TRUTH}
    )
    if differing:
        raise InputError(
            "the arms must be trained and tested on the same images; they differ in"
            f" {', '.join('data.' + key for key in differing)}"
        )
    return arms


def _variants(path: str) -> dict[str, list[str]]:
    """The arms in a YAML file, as words of a command line."""
    try:
        content = read_yaml(Path(path))
    except (OSError, InputError) as error:
        raise InputError(f"--arms {path}: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not all(
        isinstance(settings, dict) for settings in content.values()
    ):
        raise InputError(
            f"--arms {path}: expected lines such as `wide: {{model.basis: gram, model.options:"
            " {width: 16}}`"
        )
    for name, settings in content.items():
        if not isinstance(name, str):
            raise InputError(f"--arms {path}: {name!r} is no name; put it in quotes")
        _check_arm(path, name, settings)
    return {
        name: [f"--{key}={_word(value)}" for key, value in settings.items()]
        for name, settings in content.items()
    }


def _check_arm(path: str, name: str, settings: Mapping[str, object]) -> None:
    """InputError for a name that is no name of a folder below the output, or settings that every
    run has of its own.
    """
    if name in ("", ".", "..") or any(sign in name for sign in "/\\"):
        raise InputError(
            f"--arms {path}: {name!r} names a folder below --output, so that it must not hold / or"
            " \\; rename the arm"
        )
    given = [key for key in OWN if key in settings]
    if given:
        raise InputError(
            f"--arms {path}: arm {name} sets {given[0]}, which the comparison sets for each run;"
            " give --seeds and --output"
        )


def _known_basis(name: str) -> None:
    """InputError for a basis that there is not."""
    if name not in ("none", *BASES):
        raise InputError(
            f"--bases: unknown basis {name!r}{nearest(name, BASES)} (known: none,"
            f" {', '.join(sorted(BASES))})"
        )


def _word(value: object) -> str:
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10**6)
        .removesuffix("\n")
        .removesuffix("\n...")
    )


def chosen(name: str | None, arms: Mapping[str, Config], what: str) -> str | None:
    """The name, if it is one of an arm (or None)."""
    if name is not None and name not in arms:
        raise InputError(
            f"{what} {name!r} is no arm{nearest(name, arms)} (they are: {', '.join(arms)})"
        )
    return name


def match_arms(arms: Mapping[str, Config], reference: str, measure: str) -> dict[str, Config]:
    """The arms with widths to be solved for the size of the reference.

    Args:
        arms: name -> settings.
        reference: the arm whose own width is kept.
        measure: "params" or "macs".

    Raises:
        InputError: an arm has a setting of the network that the reference leaves open.
    """
    matched = dict(arms)
    size_of = arms[reference].model
    for name, config in arms.items():
        if name == reference:
            continue
        config = deepcopy(config)
        config.model.match, config.model.like = (
            measure,
            _difference(size_of, config.model, name, reference),
        )
        matched[name] = config
    return matched


def _difference(
    reference: ModelConfig, arm: ModelConfig, name: str, reference_name: str
) -> dict[str, Any]:
    """The arguments of the reference that an arm's network is to be like."""
    own = [] if arm.basis == "none" else list_basis_options(arm.basis)
    for key in arm.options:
        if key != "width" and key not in reference.options and key not in own:
            raise InputError(
                f"arm {name} sets model.options.{key} and the reference {reference_name} does not;"
                " give it there too, so that it is clear what is compared"
            )
    plain = {
        key: getattr(reference, key)
        for key in ("name", "stem")
        if getattr(reference, key) != getattr(arm, key)
    }
    return {
        **plain,
        "basis": reference.basis,
        **{
            key: value
            for key, value in reference.options.items()
            if key != "width" or value != arm.options.get(key)
        },
    }


def run_arms(
    arms: Mapping[str, Config], seeds: Sequence[int], output: Path, *, log: Log = print
) -> None:
    """Train every arm with every seed into `output/ARM/seed_N`; finished runs are left alone, begun
    ones go on, those of another process are left to it.

    Raises:
        InputError: settings that cannot be used, or a folder that holds a run with others.
    """
    for seed in seeds:
        for name, config in arms.items():
            config = deepcopy(config)
            config.seed, config.run_dir = seed, str(run_folder(output, name, seed))
            run = Path(config.run_dir)
            if is_finished(run, config):
                log(f"compare: {run} is finished")
                continue
            log(f"compare: {name}, seed {seed} -> {run}")
            try:
                train(config, **_mode(run))
            except RunBusy:
                log(f"compare: {run} is in other hands")


def run_folder(output: Path, name: str, seed: int) -> Path:
    """Where a run of an arm lies."""
    return output / name / f"seed_{seed}"


def is_finished(run: Path, config: Config) -> bool:
    """Whether the folder holds the finished run of these settings; InputError where it holds one of
    others.
    """
    if not (run / "config.yaml").is_file():
        return False
    stored, _ = stored_settings(run)
    changes = [
        change
        for change in settings_changed(stored.read_text(encoding="utf-8"), config)
        if change.split(": ")[0] not in MAY_DIFFER
    ]
    if changes:
        raise InputError(
            f"{run} holds a run with other settings ({'; '.join(changes)}); choose another --output"
        )
    return (run / "metrics.json").is_file()


def _mode(run: Path) -> dict[str, bool]:
    """How a run that is not finished is taken up."""
    if not (run / "config.yaml").is_file():
        return {}
    try:
        newest_complete(run)
    except InputError:
        if step_folders(run):  # all of them torn: that is for the user to look at
            raise
        return {"overwrite": True}
    return {"resume": True}

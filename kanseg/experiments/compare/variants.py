"""Read, size and train the variants of an experiment, each with several seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from kanseg.bases import BASES, list_basis_options
from kanseg.config import Config, ModelConfig, parse_config
from kanseg.experiments.settings import options_to_finish
from kanseg.training.run import train
from kanseg.training.run_folder.resume import RunBusy
from kanseg.utils.errors import InputError
from kanseg.utils.reading import read_yaml
from kanseg.utils.registry import nearest
from kanseg.utils.text import one_line

Log = Callable[[str], None]
# Settings of the data that all variants must share, so that they are tested on the same images.
SAME_DATA = (
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
OF_EACH_RUN = ("seed", "run_dir")  # set by the comparison


def read_variants(
    configs: Sequence[str],
    *,
    bases: Sequence[str] = (),
    variants_file: str | None = None,
    settings: Sequence[str] = (),
) -> dict[str, Config]:
    """Read the variants of an experiment: name -> settings.

    Args:
        configs: YAML files of segmentation experiments; each is a variant.
        bases: makes a variant of each config with each basis.
        variants_file: YAML of `name: {section.key: value}`; makes a variant of each config with
            each entry.
        settings: command-line arguments for all variants.

    Raises:
        InputError: files or settings that cannot be used, fewer than two variants, or variants on
            different data.
    """
    for key in OF_EACH_RUN:
        if any(word.split("=")[0] == f"--{key}" for word in settings):
            raise InputError(
                f"--{key} is set by the comparison for each run; give --seeds and --output instead"
            )
    changes: dict[str, list[str]] = {}
    known = ["none", *sorted(BASES)]
    for basis in bases:
        if basis not in known:
            raise InputError(
                f"--bases: unknown basis {basis!r}{nearest(basis, known)} (known:"
                f" {', '.join(known)})"
            )
        changes[basis] = [f"--model.basis={basis}"]
    if variants_file is not None:
        changes |= _read_variants_file(variants_file)
    variants: dict[str, Config] = {}
    for path in configs:
        for change, words in (changes or {"": []}).items():
            name = change
            if len(configs) > 1:
                name = "-".join(filter(None, (Path(path).stem, change)))
            if name in variants:
                raise InputError(
                    f"two variants are called {name!r}; give the configs different file names"
                )
            variants[name], _ = parse_config(["--config", path, *settings, *words])
    if len(variants) < 2:
        raise InputError(
            f"a comparison needs two variants or more, got {', '.join(variants) or 'one config'};"
            " give several --config, or --bases or --variants"
        )
    _check_same_data(variants)
    return variants


def _check_same_data(variants: Mapping[str, Config]) -> None:
    first, *others = (config.data for config in variants.values())
    differing = []
    for key in sorted(SAME_DATA):
        if any(getattr(data, key) != getattr(first, key) for data in others):
            differing.append(f"data.{key}")
    if differing:
        raise InputError(
            "the variants must be trained and tested on the same images; they differ in"
            f" {', '.join(differing)}"
        )


def _read_variants_file(path: str) -> dict[str, list[str]]:
    """Read a file of variants: name -> settings as command-line arguments."""
    try:
        content = read_yaml(Path(path))
    except (OSError, InputError) as error:
        raise InputError(f"--variants {path}: {one_line(error, None)}") from None
    entries = content.values() if isinstance(content, dict) else [None]
    if not all(isinstance(entry, dict) for entry in entries):
        raise InputError(
            f"--variants {path}: expected lines such as `wide: {{model.basis: gram, model.options:"
            " {width: 16}}`"
        )
    variants: dict[str, list[str]] = {}
    for name, settings in content.items():
        _check_name(path, name)
        for key in OF_EACH_RUN:
            if key in settings:
                raise InputError(
                    f"--variants {path}: {name} sets {key}, which the comparison sets for each"
                    " run; give --seeds and --output instead"
                )
        variants[name] = []
        for key, value in settings.items():
            text = yaml.safe_dump(value, default_flow_style=True, width=10**6)  # on one line
            text = text.removesuffix("\n").removesuffix("\n...")
            variants[name].append(f"--{key}={text}")
    return variants


def _check_name(path: str, name: object) -> None:
    """InputError for a name that cannot be the name of a folder."""
    if not isinstance(name, str):
        raise InputError(f"--variants {path}: {name!r} is not a name; put it in quotes")
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        raise InputError(
            f"--variants {path}: {name!r} becomes a folder in --output and must not contain / or"
            " \\; rename the variant"
        )


def check_variant(name: str, variants: Mapping[str, Config], option: str) -> str:
    """Return the name; InputError if there is no such variant."""
    if name not in variants:
        raise InputError(
            f"{option} {name!r} is not a variant{nearest(name, variants)} (known:"
            f" {', '.join(variants)})"
        )
    return name


def has_other_encoder(variants: Mapping[str, Config]) -> bool:
    """True if a variant has an encoder whose size does not follow the width of the network."""
    return any(config.model.encoder is not None for config in variants.values())


def match_sizes(variants: Mapping[str, Config], reference: str, measure: str) -> dict[str, Config]:
    """Set `model.match` and `model.like` of the variants, so that their widths are solved for the
    size of the reference.

    Args:
        variants: name -> settings.
        reference: the variant whose width is kept.
        measure: "params" or "macs".

    Raises:
        InputError: a variant sets a network option that the reference does not set.
    """
    matched = dict(variants)
    reference_model = variants[reference].model
    for name, config in variants.items():
        if name == reference:
            continue
        _check_options(reference_model, config.model, name, reference)
        matched[name] = deepcopy(config)
        matched[name].model.match = measure
        matched[name].model.like = _like(reference_model, config.model)
    return matched


def _check_options(
    reference: ModelConfig, model: ModelConfig, name: str, reference_name: str
) -> None:
    known = ["width", *reference.options]
    if model.basis != "none":
        known += list_basis_options(model.basis)
    for key in model.options:
        if key not in known:
            raise InputError(
                f"{name} sets model.options.{key} and the reference {reference_name} does not; set"
                " it there too, so that the comparison is clear"
            )


def _like(reference: ModelConfig, model: ModelConfig) -> dict[str, Any]:
    """The arguments in which the reference differs from a variant's network."""
    like: dict[str, Any] = {}
    for key in ("name", "stem"):
        if getattr(reference, key) != getattr(model, key):
            like[key] = getattr(reference, key)
    like["basis"] = reference.basis
    for key, value in reference.options.items():
        if key != "width" or value != model.options.get(key):
            like[key] = value
    return like


def run_variants(
    variants: Mapping[str, Config], seeds: Sequence[int], output: Path, *, log: Log = print
) -> None:
    """Train every variant with every seed into `output/VARIANT/seed_N`. Finished runs and runs of
    other processes are skipped, unfinished runs are resumed.

    Raises:
        InputError: settings that cannot be used, or a folder that holds a run with others.
    """
    for seed in seeds:
        for name, variant in variants.items():
            run = run_folder(output, name, seed)
            config = deepcopy(variant)
            config.seed = seed
            config.run_dir = str(run)
            options = options_to_finish(config, hint="choose another --output")
            if options is None:
                log(f"compare: {run} is finished")
                continue
            log(f"compare: {name}, seed {seed} -> {run}")
            try:
                train(config, **options)
            except RunBusy:
                log(f"compare: {run} is being trained by another process")


def run_folder(output: Path, name: str, seed: int) -> Path:
    """The folder of a variant's run with a seed."""
    return output / name / f"seed_{seed}"

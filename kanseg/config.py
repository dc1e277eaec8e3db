"""Typed settings <-> YAML <-> command line. An unknown key is an error that names the nearest one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union

import yaml

from kanseg.errors import InputError
from kanseg.registry import nearest

# A value in YAML. Not `Any`: there jsonargparse would import and call whatever a `class_path` names.
Value = Union[None, bool, int, float, str, list, dict]  # noqa: UP007 - evaluated by jsonargparse on Python 3.10 too


@dataclass
class DataConfig:
    """Where the pictures are and how they are read.

    Args:
        root: folder of the data set (its form: data/README.md).
        prepare: name of an embedded data set that is written to root first ("blue_marble").
        task: "binary" or "multiclass"; by default from dataset.yaml or from the masks.
        classes: names of the classes, the background first.
        mask_values: value in the mask file -> class index.
        ignore_index: index that counts for nothing in loss and metrics.
        palette: an [r, g, b] per class.
        train: splits that are trained on.
        val: splits that select the best weights; empty for none (then the last weights are the best).
        test: splits that are measured once, at the end; empty for none.
        split_seed: of the 70/15/15 split where there are no split files.
        channels: of the network's input (1 grey, 3 RGB).
        resize: [height, width] that pictures are scaled to, in training and in prediction.
        interpolation: of that scaling; "area" averages, which loses texture and aliasing alike.
        crop: [height, width] of random crops in training; pictures to predict are then cut into tiles of this size.
        gamma: exponent on the values in [0, 1] before normalisation; 0.5 spreads dark pictures.
        mean: per channel; by default that of the training pictures.
        std: per channel; by default that of the training pictures.
        augment: albumentations transforms, `- Name: {option: value}`.
        skip_bad: leave faulty samples out instead of stopping.
        workers: processes that read; results do not depend on their number.
    """

    root: str = "data"
    prepare: str | None = None
    task: str | None = None
    classes: list[str] | None = None
    mask_values: dict[int, int] | None = None
    ignore_index: int | None = None
    palette: list[list[int]] | None = None
    train: list[str] = field(default_factory=lambda: ["train"])
    val: list[str] = field(default_factory=lambda: ["val"])
    test: list[str] = field(default_factory=lambda: ["test"])
    split_seed: int = 0
    channels: int = 3
    resize: list[int] | None = None
    interpolation: Literal["linear", "area"] = "linear"
    crop: list[int] | None = None
    gamma: float = 1.0
    mean: list[float] | None = None
    std: list[float] | None = None
    augment: list[dict[str, dict[str, Value]] | str] = field(default_factory=list)
    skip_bad: bool = False
    workers: int = 2


@dataclass
class ModelConfig:
    """The network: arguments of `kanseg.create_model`.

    Args:
        name: one of kanseg.list_models("segmentation").
        basis: one of kanseg.list_bases(); "none" is the same net of plain convolutions.
        stem: the first convolution: "auto" (B-splines of the colours), null (as all others) or options that differ.
        match: "params" or "macs": solve the width for the size of `like` (so that options.width is that of `like`).
        like: arguments in which the network to be matched differs: the control arm of an experiment with basis gram is basis none,
            match params, like {basis: gram}.
        options: width, depth, inner_channels, degree, grid_size, norm, ...
    """

    name: str = "unet"
    basis: str = "gram"
    stem: Literal["auto"] | dict[str, Value] | None = "auto"
    match: Literal["params", "macs"] | None = None
    like: dict[str, Value] | None = None
    options: dict[str, Value] = field(default_factory=dict)


@dataclass
class TrainingConfig:
    """How the network is trained.

    Args:
        epochs: passes over the training pictures.
        batch_size: pictures a step and process.
        loss: weight of each loss, of ce (binary: BCE) and dice.
        penalty: weight of each penalty added to the loss, of weights_l1, activations_l1 and activations_l2 (means over the weights of the
            functions and over the outputs of the KAN layers, summed over the layers), and of balance (how unevenly the mixtures of
            model.options.experts are used), and of elbo (minus the evidence lower bound of vae_kan's autoencoder, in nats a value).
        lr: peak learning rate of AdamW.
        weight_decay: of AdamW.
        warmup: share of the steps in which the learning rate rises linearly; it falls along a cosine afterwards.
        accumulate: batches whose gradients are added up for one step.
        clip: largest norm of the gradient; null for no limit.
        precision: "no" (float32), "bf16" or "fp16" for convolutions; bases and losses stay in float32. By default what
            `accelerate launch --mixed_precision` says, or float32.
        validate_every: epochs between validations.
        save_every: optimiser steps between checkpoints; 0 for one an epoch only.
        keep: checkpoints that are kept.
        log_every: optimiser steps between lines of log.jsonl.
        monitor: the validation metric that selects the best weights.
        panels: samples drawn as pictures at the end.
        tensorboard: write TensorBoard events to the run folder.
        threads: CPU threads of torch; 0 leaves torch's own choice.
    """

    epochs: int = 50
    batch_size: int = 8
    loss: dict[str, float] = field(default_factory=lambda: {"ce": 0.5, "dice": 1.0})
    penalty: dict[str, float] = field(default_factory=dict)
    lr: float = 1e-3
    weight_decay: float = 1e-4
    warmup: float = 0.3
    accumulate: int = 1
    clip: float | None = 1.0
    precision: Literal["no", "bf16", "fp16"] | None = None
    validate_every: int = 1
    save_every: int = 0
    keep: int = 2
    log_every: int = 10
    monitor: str = "mean_iou"
    panels: int = 8
    tensorboard: bool = True
    threads: int = 0


@dataclass
class Config:
    """One experiment.

    Args:
        run_dir: folder for everything that the run writes.
        seed: of weights, order and augmentation.
        data: the pictures.
        model: the network.
        training: the training.
    """

    run_dir: str = "runs/run"
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def to_yaml(self) -> str:
        """The complete settings; `Config.from_yaml` reads them back equal."""
        return yaml.safe_dump(asdict(self), sort_keys=False, allow_unicode=True)

    @staticmethod
    def from_yaml(text: str) -> Config:
        """The settings in a YAML text; what it leaves out has its default.

        Raises:
            InputError: unknown keys, wrong types.
        """
        parser = command_line()
        try:
            content = yaml.safe_load(text) or {}
        except yaml.YAMLError as error:
            raise InputError(f"not valid YAML: {' '.join(str(error).split())}") from None
        if not isinstance(content, dict) or any(isinstance(part, dict) and "class_path" in part for part in content.values()):
            raise InputError(f"settings must be `key: value` lines, got {content!r:.80}")
        return _instantiate(parser, parser.parse_object(content))


def command_line(description: str = "", prog: str | None = None):
    """A parser for all settings: `--config FILE`, `--section.key value`, `--print_config`, `--help`."""
    from jsonargparse import ArgumentParser

    class Parser(ArgumentParser):
        def error(self, message: str, ex: Exception | None = None) -> None:
            raise InputError(_one_line(message)) from None

    parser = Parser(description=description, prog=prog, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file of settings; what follows on the command line overrides it.")
    parser.add_class_arguments(Config, None)
    return parser


def parse_config(argv: Sequence[str] | None, *, description: str = "", flags: dict[str, str] | None = None) -> tuple[Config, dict[str, bool]]:
    """The settings of a command line, and the given on/off flags (name -> help text) beside them.

    Raises:
        InputError: unknown keys (with the nearest known one), wrong types, a missing file.
    """
    parser = command_line(description)
    for name, text in (flags or {}).items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    try:
        namespace = parser.parse_args(argv)
    except UnicodeDecodeError as error:
        raise InputError(f"a config is not UTF-8 text ({error.reason} at byte {error.start})") from None
    return _instantiate(parser, namespace), {name: bool(namespace[name]) for name in flags or {}}


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _instantiate(parser: Any, namespace: Any) -> Config:
    for section in ("data", "model", "training"):
        if not hasattr(namespace[section], "__dict__"):
            raise InputError(f"setting {section!r} must hold `key: value` lines, got {namespace[section]!r:.80}")
    parts = parser.instantiate(namespace)
    return Config(**{f.name: parts[f.name] for f in fields(Config)})


def _known_keys(kind: type = Config, prefix: str = "") -> list[str]:
    keys = []
    for f in fields(kind):
        keys.append(prefix + f.name)
        default = f.default_factory() if callable(f.default_factory) else None
        if is_dataclass(default):
            keys += _known_keys(type(default), f"{prefix}{f.name}.")
    return keys


# How jsonargparse words an unknown key; the last group of each names the key.
UNKNOWN_KEY = (
    r"(?:Key|Option|option) [\"']?(?:--)?([\w.]+)[\"']? is not (?:expected|accepted)",
    r"[Uu]nrecognized arguments: --?([\w.]+)",
    r"Group [\"'][\w.]+[\"'] does not accept option [\"']([\w.]+)[\"']",
)


def _one_line(message: str) -> str:
    """The parser's message on one line, with the nearest known key where a key is unknown."""
    text = " ".join(re.sub(r"(?m)^\s*- ", "", message).split())
    unknown = re.search("|".join(UNKNOWN_KEY), text)
    if unknown is None:
        return text[:500]
    key = next(group for group in reversed(unknown.groups()) if group)
    known = _known_keys()
    by_leaf = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
    leaf = difflib.get_close_matches(key.rsplit(".", 1)[-1], by_leaf, n=1)
    hint = nearest(key, known) or (f"; did you mean {by_leaf[leaf[0]]!r}?" if leaf else "")
    return f"unknown setting {key!r}{hint} (all settings: --help)"

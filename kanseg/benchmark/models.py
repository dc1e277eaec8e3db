"""Time of a training step, bytes saved for backward, and parameters of whole networks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from kanseg.benchmark.measure import Ratio, Setting, Step, interleaved, ratio, trained
from kanseg.benchmark.original import MODELS as COUNTERPARTS
from kanseg.benchmark.original import Counterpart, Original, clear_method_caches
from kanseg.benchmark.report import check_names, format_targets, is_met, yes_or_no
from kanseg.models import create_model, list_bases, list_models
from kanseg.models.matching import solve_width
from kanseg.models.operations import saved_bytes
from kanseg.utils.errors import InputError
from kanseg.utils.tables import markdown_table

CLASSES = 2
# As torch-conv-kan builds its networks: a function on every edge, a base branch with an activation,
# no special first layer.
FULL = {"inner_channels": None, "base_activation": "silu", "stem": None}
# Shares of torch-conv-kan's time, and of the bytes that it saves for backward.
TIME_TARGET, SAVED_TARGET, SAVED_TARGET_BSPLINE = 0.5, 1 / 3, 1 / 10
HEADER = ["model", "basis", "options", "width", "parameters", "step ms", "saved MiB"]
HEADER_ORIGINAL = ["time", "saved", "target", "met"]
EXPLAINED = """step ms: forward in training mode, cross-entropy, backward to all parameters. saved
MiB: saved for backward; every storage counts once, parameters do not count. options: full -
inner_channels=None, base_activation="silu", stem=None; default - as create_model builds it."""
EXPLAINED_ORIGINAL = """
With a counterpart in torch-conv-kan: full has its topology and width, default the width for as many
parameters; time and saved are shares of torch-conv-kan's (median of the rounds ± half the
interquartile range), target holds for both."""
Row = dict[str, object]


@dataclass(frozen=True)
class ModelCase:
    """Options of the measurement: input (batch, 3, size, size)."""

    size: int = 128
    batch: int = 2
    compile: bool = False

    def __str__(self) -> str:
        return f"x = ({self.batch}, 3, {self.size}, {self.size}), {CLASSES} classes"


class Candidate(NamedTuple):
    """A network to measure."""

    module: nn.Module
    options: str
    width: float | None = None
    compiled: bool = False

    def step(self, setting: Setting, x: Tensor, labels: Tensor) -> Step:
        """A training step: forward, loss, and backward to all parameters."""
        module, parameters = self.module.train(), trained(self.module)

        def step() -> None:
            torch.autograd.grad(_loss(module, setting, x, labels), parameters, allow_unused=True)

        return step

    def saved(self, setting: Setting, x: Tensor, labels: Tensor) -> int:
        """Bytes saved for backward."""
        module = self.module.train()
        return saved_bytes(
            lambda: _loss(module, setting, x, labels), chain(module.parameters(), module.buffers())
        )


def _loss(module: nn.Module, setting: Setting, x: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, summed over the outputs of a network with deep supervision."""
    with setting.autocast():
        outputs = module(x)
    if isinstance(outputs, Tensor):
        outputs = [outputs]
    return sum(functional.cross_entropy(logits.float(), labels) for logits in outputs)


def model_rows(
    names: Sequence[str],
    bases: Sequence[str],
    case: ModelCase,
    setting: Setting,
    original: Original | None = None,
) -> Iterator[Row]:
    """Measure every network and basis: rows for the full functions, for the defaults, and for the
    counterpart in torch-conv-kan, if there is one.

    Raises:
        InputError: an unknown name or basis, or a size that the network cannot have.
    """
    check_names("model", list_models("segmentation"), names)
    check_names("basis", list_bases(), bases)
    if min(case.size, case.batch) < 1:
        raise InputError(
            f"size and batch must be at least 1, got size {case.size}, batch {case.batch}"
        )
    for name in names:
        for basis in bases:
            counterpart = COUNTERPARTS.get((name, basis))
            candidates = _candidates(name, basis, case, setting, original, counterpart)
            yield from _measured(name, basis, candidates, case, setting)


def num_parameters(module: nn.Module) -> int:
    """Number of parameters that require gradients."""
    return sum(parameter.numel() for parameter in trained(module))


def nearest_width(name: str, basis: str, wanted: int, **options: object) -> float:
    """The width at which the number of parameters is closest to `wanted`."""

    def size(width: float) -> int:
        with torch.device("meta"):
            model = create_model(name, classes=CLASSES, basis=basis, width=width, **options)
        return num_parameters(model)

    return solve_width(size, wanted, tolerance=math.inf)


def _candidates(
    name: str,
    basis: str,
    case: ModelCase,
    setting: Setting,
    original: Original | None,
    counterpart: Counterpart | None,
) -> list[Candidate]:
    own: dict[str, object] = {}
    default: dict[str, object] = {}
    candidates = []
    if original is not None and counterpart is not None:
        theirs = original.model(counterpart, CLASSES)
        candidates.append(Candidate(theirs.to(setting.device), "torch-conv-kan"))
        own = counterpart.ours
        default = {key: value for key, value in own.items() if key != "width"}
        default["width"] = nearest_width(name, basis, num_parameters(theirs), **default)
    ours = {"full": FULL | own, "default": default}
    if basis == "none":
        del ours["full"]
    torch.compiler.reset()
    for label, options in ours.items():
        model = create_model(name, classes=CLASSES, basis=basis, **options).to(setting.device)
        width = options.get("width")
        candidates.append(Candidate(model, label, width))
        if case.compile:
            candidates.append(Candidate(torch.compile(model), label, width, compiled=True))
    return candidates


def _measured(
    name: str, basis: str, candidates: list[Candidate], case: ModelCase, setting: Setting
) -> Iterator[Row]:
    x = torch.randn(case.batch, 3, case.size, case.size, device=setting.device)
    labels = torch.randint(CLASSES, (case.batch, case.size, case.size), device=setting.device)
    theirs = None
    for number, candidate in enumerate(candidates):
        if candidate.options == "torch-conv-kan":
            theirs = number

    def clean_up() -> None:
        if theirs is not None:
            clear_method_caches(candidates[theirs].module)

    saved = []
    for candidate in candidates:
        try:
            saved.append(candidate.saved(setting, x, labels))
        except ValueError as error:  # a norm over a single value
            raise InputError(f"{name}, {case}: {error}") from error
        clean_up()
    steps = {str(i): each.step(setting, x, labels) for i, each in enumerate(candidates)}
    times = list(interleaved(steps, setting, clean_up).values())
    targets = [TIME_TARGET, SAVED_TARGET]
    if basis == "bspline":
        targets = [TIME_TARGET, SAVED_TARGET_BSPLINE]
    for i, candidate in enumerate(candidates):
        row: Row = {
            "model": name,
            "basis": basis,
            "options": candidate.options,
            "compiled": candidate.compiled,
            "width": candidate.width,
            "parameters": num_parameters(candidate.module),
            "milliseconds": statistics.median(times[i]),
            "saved_mib": saved[i] / 2**20,
        }
        if theirs is not None and i != theirs:
            relative = ratio(times[i], times[theirs])
            share = saved[i] / saved[theirs]
            row |= {
                "time_ratio": relative.median,
                "time_spread": relative.spread,
                "saved_ratio": share,
                "reach": targets,
                "met": is_met([(relative.median, targets[0], 2), (share, targets[1], 2)]),
            }
        yield row


def model_table(rows: Sequence[Row], original: bool) -> str:
    """Format the rows as a Markdown table; `EXPLAINED` describes the columns.

    Args:
        rows: of `model_rows`.
        original: add the columns relative to torch-conv-kan.
    """
    header = [*HEADER, *HEADER_ORIGINAL] if original else HEADER
    lines = []
    for row in rows:
        label = str(row["options"])
        if row["compiled"]:
            label += ", compiled"
        cells = [
            str(row["model"]),
            str(row["basis"]),
            label,
            "-" if row["width"] is None else f"{row['width']:g}",
            f"{row['parameters']:,}",
            f"{row['milliseconds']:.4g}",
            f"{row['saved_mib']:.1f}",
        ]
        if original and "time_ratio" in row:
            cells += [
                str(Ratio(row["time_ratio"], row["time_spread"])),
                f"{row['saved_ratio']:.2f}",
                format_targets(row["reach"]),
                yes_or_no(row["met"]),
            ]
        elif original:
            cells += ["-"] * len(HEADER_ORIGINAL)
        lines.append(cells)
    return markdown_table(header, lines, text_columns=3)

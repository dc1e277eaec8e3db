"""Whole networks: a training step's time, what it keeps for backward, and parameters."""

from __future__ import annotations

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
from kanseg.benchmark.original import Counterpart, Original, forget
from kanseg.benchmark.report import answer, check_names, is_met, limits
from kanseg.models import create_model, list_bases, list_models
from kanseg.models.operations import saved_bytes
from kanseg.utils.errors import InputError
from kanseg.utils.tables import markdown_table

CLASSES = 2
# As torch-conv-kan builds its networks: a function on every edge, the base branch with its
# activation, the first layer as all others.
FULL = {"inner_channels": None, "base_activation": "silu", "stem": None}
# Of torch-conv-kan's time, and of the memory that it keeps.
REACH_TIME, REACH_SAVED, REACH_SAVED_BSPLINE = 0.5, 1 / 3, 1 / 10
WIDEST = 512
HEADER = ["model", "basis", "options", "width", "parameters", "step ms", "saved MiB"]
HEADER_ORIGINAL = ["time", "saved", "reach", "met"]
EXPLAINED = """step ms: forward in training mode, cross-entropy, backward to all parameters. saved
MiB: kept for backward, every storage once, parameters left out. options: full -
inner_channels=None, base_activation="silu", stem=None; default - as create_model builds it."""
EXPLAINED_ORIGINAL = """
With a counterpart in torch-conv-kan: full has its topology and width, default the width that comes
nearest to its parameters; time and saved are shares of torch-conv-kan's (median of the rounds ±
half the distance between the quartiles), reach is what is aimed at for both."""
Row = dict[str, object]


@dataclass(frozen=True)
class ModelCase:
    """What goes in, (batch, 3, size, size)."""

    size: int = 128
    batch: int = 2
    compile: bool = False

    def __str__(self) -> str:
        return f"x = ({self.batch}, 3, {self.size}, {self.size}), {CLASSES} classes"


class Arm(NamedTuple):
    """A network in the comparison."""

    module: nn.Module
    options: str
    width: int | None = None
    compiled: bool = False

    def step(self, setting: Setting, x: Tensor, labels: Tensor) -> Step:
        """Forward, loss, and backward to all parameters."""
        module, parameters = self.module.train(), trained(self.module)

        def step() -> None:
            torch.autograd.grad(_loss(module, setting, x, labels), parameters, allow_unused=True)

        return step

    def saved(self, setting: Setting, x: Tensor, labels: Tensor) -> int:
        """Bytes kept for backward."""
        module = self.module.train()
        return saved_bytes(
            lambda: _loss(module, setting, x, labels), chain(module.parameters(), module.buffers())
        )


def _loss(module: nn.Module, setting: Setting, x: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, summed over the outputs of a network that has several in training."""
    with setting.autocast():
        outputs = module(x)
    outputs = [outputs] if isinstance(outputs, Tensor) else outputs
    return sum(functional.cross_entropy(logits.float(), labels) for logits in outputs)


def model_rows(
    names: Sequence[str],
    bases: Sequence[str],
    case: ModelCase,
    setting: Setting,
    original: Original | None = None,
) -> Iterator[Row]:
    """Rows for every network and basis: with full functions, as by default, and torch-conv-kan's
    where it has the same.

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
            counterpart = COUNTERPARTS.get((name, basis)) if original is not None else None
            yield from _measured(
                name, basis, _arms(name, basis, case, setting, original, counterpart), case, setting
            )


def num_parameters(module: nn.Module) -> int:
    """Numbers that are trained."""
    return sum(parameter.numel() for parameter in trained(module))


def nearest_width(name: str, basis: str, wanted: int, **options: object) -> int:
    """The width whose network has as nearly as possible so many parameters; networks grow with
    their width.
    """

    def size(width: int) -> int:
        with torch.device("meta"):
            return num_parameters(
                create_model(name, classes=CLASSES, basis=basis, width=width, **options)
            )

    low, high = 1, WIDEST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) <= wanted else (low, middle)
    return min((low, high), key=lambda width: abs(size(width) - wanted))


def _arms(
    name: str,
    basis: str,
    case: ModelCase,
    setting: Setting,
    original: Original | None,
    counterpart: Counterpart | None,
) -> list[Arm]:
    own: dict[str, object] = {}
    arms, default = [], {}
    if original is not None and counterpart is not None:
        theirs = original.model(counterpart, CLASSES)
        own = counterpart.ours
        default = {key: value for key, value in own.items() if key != "width"}
        default["width"] = nearest_width(name, basis, num_parameters(theirs), **default)
        arms.append(Arm(theirs.to(setting.device), "torch-conv-kan"))
    ours = {"default": default} if basis == "none" else {"full": FULL | own, "default": default}
    torch.compiler.reset()
    for label, options in ours.items():
        model = create_model(name, classes=CLASSES, basis=basis, **options).to(setting.device)
        arms.append(Arm(model, label, options.get("width")))
        if case.compile:
            arms.append(Arm(torch.compile(model), label, options.get("width"), compiled=True))
    return arms


def _measured(
    name: str, basis: str, arms: list[Arm], case: ModelCase, setting: Setting
) -> Iterator[Row]:
    x = torch.randn(case.batch, 3, case.size, case.size, device=setting.device)
    labels = torch.randint(CLASSES, (case.batch, case.size, case.size), device=setting.device)
    theirs = next((i for i, arm in enumerate(arms) if arm.options == "torch-conv-kan"), None)

    def tidy() -> None:
        if theirs is not None:
            forget(arms[theirs].module)

    saved = []
    for arm in arms:
        try:
            saved.append(arm.saved(setting, x, labels))
        except ValueError as error:  # a norm over a single value
            raise InputError(f"{name}, {case}: {error}") from error
        tidy()
    times = list(
        interleaved(
            {str(i): arm.step(setting, x, labels) for i, arm in enumerate(arms)}, setting, tidy
        ).values()
    )
    reach = [REACH_TIME, REACH_SAVED_BSPLINE if basis == "bspline" else REACH_SAVED]
    for i, arm in enumerate(arms):
        row: Row = {
            "model": name,
            "basis": basis,
            "options": arm.options,
            "compiled": arm.compiled,
            "width": arm.width,
        }
        row |= {
            "parameters": num_parameters(arm.module),
            "milliseconds": statistics.median(times[i]),
            "saved_mib": saved[i] / 2**20,
        }
        if theirs is not None and i != theirs:
            relative = ratio(times[i], times[theirs])
            share = saved[i] / saved[theirs]
            met = is_met([(relative.median, reach[0], 2), (share, reach[1], 2)])
            row |= {
                "time_ratio": relative.median,
                "time_spread": relative.spread,
                "saved_ratio": share,
                "reach": reach,
                "met": met,
            }
        yield row


def model_table(rows: Sequence[Row], original: bool) -> str:
    """As Markdown, what the columns are is told by `EXPLAINED`; `original`: with the columns
    relative to torch-conv-kan.
    """
    lines = []
    for row in rows:
        label = f"{row['options']}{', compiled' if row['compiled'] else ''}"
        line = [
            str(row["model"]),
            str(row["basis"]),
            label,
            str(row["width"] or "-"),
            f"{row['parameters']:,}",
        ]
        line += [f"{row['milliseconds']:.4g}", f"{row['saved_mib']:.1f}"]
        if original and "time_ratio" in row:
            line += [
                str(Ratio(row["time_ratio"], row["time_spread"])),
                f"{row['saved_ratio']:.2f}",
                limits(row["reach"]),
                answer(row["met"]),
            ]
        elif original:
            line += ["-"] * len(HEADER_ORIGINAL)
        lines.append(line)
    return markdown_table([*HEADER, *(HEADER_ORIGINAL if original else [])], lines, text_columns=3)

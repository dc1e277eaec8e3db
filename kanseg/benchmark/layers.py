"""Time and memory of a KAN convolution, relative to its limit: a plain convolution over channels
that are expanded already, or for shared functions a plain convolution with norm and SiLU.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kanseg.bases import BASES
from kanseg.benchmark.measure import DTYPES, Ratio, Setting, Step, interleaved, ratio, trained
from kanseg.benchmark.original import LAYERS as ORIGINAL_LAYERS
from kanseg.benchmark.original import Original, clear_method_caches
from kanseg.benchmark.report import check_names, format_targets, is_met, yes_or_no
from kanseg.layers import KANConv2d
from kanseg.layers.activation import KANActivation
from kanseg.models.operations import saved_bytes
from kanseg.utils.errors import InputError
from kanseg.utils.tables import markdown_table

_POLYNOMIAL = {32: (1.4, 1.4), 64: (1.2, 1.15)}
_PIECEWISE = {32: (1.5, 1.4), 64: (1.2, 1.2)}
# Targets: basis -> channels -> (forward, forward + backward), for (4, C, 64, 64), one group, eager
# float32 on one CPU thread.
TARGETS = dict.fromkeys(
    ("legendre", "chebyshev", "gram", "jacobi", "bernstein"), _POLYNOMIAL
) | dict.fromkeys(("bspline", "rbf", "relu"), _PIECEWISE)
TARGETS["wavelet"] = {32: (1.5, 1.5), 64: (1.25, 1.25)}
COMPILED_TARGETS = {32: (1.15, 1.15), 64: (1.1, 1.1)}
GROUPED_TARGETS = {16: {64: (1.3, 1.3)}}  # groups -> channels -> targets
SAVED_TARGET = 4.0  # times the bytes of the input, in every case
# Targets for functions shared by a channel or more, compiled or not.
_SHARED_SMOOTH = {32: (1.15, 1.2), 64: (1.08, 1.12)}
_SHARED_PIECEWISE = {32: (1.3, 1.35), 64: (1.15, 1.2)}
SHARED_TARGETS = dict.fromkeys(
    ("legendre", "chebyshev", "gram", "jacobi", "bernstein", "fourier"), _SHARED_SMOOTH
) | dict.fromkeys(("bspline", "rbf", "relu", "wavelet", "hermite", "rational"), _SHARED_PIECEWISE)

PHASES = {"forward": False, "forward_backward": True}  # name -> in training mode
HEADER = ["basis", "C", "n", "limit ms", "forward", "fwd+bwd", "saved", "target", "met"]
HEADER_ORIGINAL = ["torch-conv-kan forward", "fwd+bwd", "saved"]
EXPLAINED = """limit ms: {limit}; forward / forward+backward.
forward: in eval mode without gradients; fwd+bwd: in training mode, gradients of the input and of
all parameters; both as multiples of the limit measured in the same way (median of the rounds ± half
the interquartile range).
saved: bytes saved for backward divided by the bytes of the input; every storage counts once,
parameters do not count.
target: for forward / fwd+bwd / saved{saved}.
fails: torch-conv-kan's layer raises an error."""
EXPLAINED_LIMIT = """one nn.Conv2d(n * C, C, 3, padding=1, bias=False) on expanded channels, with
n = functions that are not constant + 1 for the base branch"""
EXPLAINED_LIMIT_SHARED = """one nn.Conv2d(C, C, 3, padding=1, bias=False) with nn.BatchNorm2d and
nn.SiLU on the same input, whatever n (functions that are not constant + 1 for the base branch)"""
Row = dict[str, object]


@dataclass(frozen=True)
class LayerCase:
    """Sizes and options of the layers: input (batch, C, size, size), C -> C, 3x3, padding 1, with
    norm and activation.
    """

    size: int = 64
    batch: int = 4
    groups: int = 1
    share: str | int = "edge"
    compile: bool = False

    @property
    def is_shared(self) -> bool:
        """True if edges share their functions."""
        return self.share != "edge"

    @property
    def explained(self) -> str:
        """Describes the columns of the table."""
        if self.is_shared:
            limit, saved = EXPLAINED_LIMIT_SHARED, " (of the limit)"
        else:
            limit, saved = EXPLAINED_LIMIT, ""
        return EXPLAINED.format(limit=limit, saved=saved)

    def __str__(self) -> str:
        return (
            f"x = ({self.batch}, C, {self.size}, {self.size}), C -> C, 3x3, padding 1,"
            f" groups={self.groups}, share={self.share!r}"
        )

    def layer(self, basis: str, channels: int) -> KANConv2d:
        """The layer with default options; InputError for arguments that KANConv2d refuses."""
        options: dict[str, object] = {"padding": 1, "groups": self.groups, "basis": basis}
        if self.is_shared:
            options["share"] = self.share
        try:
            return KANConv2d(channels, channels, 3, **options)
        except ValueError as error:
            raise InputError(str(error)) from error

    def limit(self, channels: int, n: int) -> nn.Module:
        """The limit of a layer with n functions per channel: (B, n * C, H, W) -> (B, C, H, W), or
        for shared functions (B, C, H, W) -> (B, C, H, W).
        """
        options = {"padding": 1, "groups": self.groups, "bias": False}
        if not self.is_shared:
            return nn.Conv2d(n * channels, channels, 3, **options)
        conv = nn.Conv2d(channels, channels, 3, **options)
        return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.SiLU())

    def targets(
        self, basis: str, channels: int, setting: Setting, compiled: bool
    ) -> tuple[float | None, float | None]:
        """Targets for forward and forward + backward; None if there are none."""
        measured = (self.size, self.batch, setting.device, setting.dtype)
        if measured != (64, 4, "cpu", "float32"):
            return None, None
        targets: dict[int, tuple[float, float]] = {}
        if self.groups == 1:
            if self.is_shared:
                targets = SHARED_TARGETS.get(basis, {})
            elif compiled:
                targets = COMPILED_TARGETS
            else:
                targets = TARGETS.get(basis, {})
        elif not self.is_shared and not compiled:
            targets = GROUPED_TARGETS.get(self.groups, {})
        return targets.get(channels, (None, None))

    def saved_target(self, limit: float) -> float:
        """Target for the bytes saved for backward, as a multiple of the bytes of the input.

        Args:
            limit: the multiple of the limit.
        """
        if self.is_shared:
            return round(limit, 1)
        return SAVED_TARGET


class Candidate(NamedTuple):
    """A module to measure, and its input."""

    module: nn.Module
    x: Tensor

    def step(self, setting: Setting, train: bool) -> Step:
        """A forward pass without gradients, or with `train` forward and backward to the input and
        all parameters.
        """
        module, x = self.module.train(train), self.x
        if not train:
            return lambda: _forward(module, x, setting)
        with setting.autocast():
            upstream = torch.randn_like(module(x))
        inputs = [x, *trained(module)]

        def forward_backward() -> None:
            with setting.autocast():
                y = module(x)
            torch.autograd.grad(y, inputs, upstream, allow_unused=True)

        return forward_backward

    def saved(self, setting: Setting) -> float:
        """Bytes saved for backward, as a multiple of the bytes of the input."""
        module = self.module.train()

        def call() -> Tensor:
            with setting.autocast():
                return module(self.x)

        kept = saved_bytes(call, chain(module.parameters(), module.buffers()))
        return kept / (self.x.numel() * self.x.element_size())


def layer_rows(
    bases: Sequence[str],
    widths: Sequence[int],
    case: LayerCase,
    setting: Setting,
    original: Original | None = None,
) -> Iterator[Row]:
    """Measure each basis and width: a row for the layer, and with `case.compile` one for the
    compiled layer.

    Raises:
        InputError: an unknown basis, or widths that the layer cannot have.
    """
    check_names("basis", list(BASES), bases)
    if min(case.size, case.batch, case.groups, *widths) < 1:
        raise InputError(
            "channels, size, batch and groups must be at least 1, got channels"
            f" {', '.join(map(str, widths))}; {case}"
        )
    if case.size * case.batch < 2:
        raise InputError(f"a batch norm needs more than one pixel in a batch; {case}")
    for basis in bases:
        for channels in widths:
            yield from _measured(basis, channels, case, setting, original)


def _forward(module: nn.Module, x: Tensor, setting: Setting) -> Tensor:
    with torch.no_grad(), setting.autocast():
        return module(x)


def functions_per_channel(layer: KANConv2d) -> int:
    """Count the functions of a channel, without a constant one, which is only a bias, plus 1 for
    the base branch.
    """
    if isinstance(layer.activation, KANActivation):
        basis, base = layer.activation.basis, layer.activation.base
        each = basis.num_functions
    else:
        basis, base = layer.basis, layer.base_conv
        each = layer.basis_conv.in_channels // layer.in_channels
    constant = each > 1 and basis.constant_function is not None
    return each - constant + (base is not None)


def _candidates(
    basis: str, channels: int, case: LayerCase, setting: Setting, original: Original | None
) -> tuple[int, dict[str, Candidate]]:
    layer = case.layer(basis, channels).to(setting.device)
    n = functions_per_channel(layer)
    shape = (case.batch, channels, case.size, case.size)
    x = torch.randn(shape, device=setting.device, requires_grad=True)
    limit_input = x
    if not case.is_shared:
        expanded = (case.batch, n * channels, case.size, case.size)
        limit_input = torch.randn(
            expanded, device=setting.device, dtype=DTYPES[setting.dtype], requires_grad=True
        )
    limit = case.limit(channels, n).to(setting.device)
    candidates = {"limit": Candidate(limit, limit_input), "eager": Candidate(layer, x)}
    if case.compile:
        torch.compiler.reset()  # otherwise the compiler gives up after some layers of one class
        candidates["compiled"] = Candidate(torch.compile(layer), x)
    if original is not None and basis in ORIGINAL_LAYERS:
        theirs = original.layer(basis, channels, case.groups).to(setting.device)
        candidates["original"] = Candidate(theirs, x)
    return n, candidates


def _measured(
    basis: str, channels: int, case: LayerCase, setting: Setting, original: Original | None
) -> Iterator[Row]:
    n, candidates = _candidates(basis, channels, case, setting, original)

    def clean_up() -> None:
        if "original" in candidates:
            clear_method_caches(candidates["original"].module)

    saved = {name: candidate.saved(setting) for name, candidate in candidates.items()}
    clean_up()
    times: dict[str, dict[str, list[float]]] = {}
    faults: dict[str, str | None] = {}
    for phase, train in PHASES.items():
        steps = {name: candidate.step(setting, train) for name, candidate in candidates.items()}
        clean_up()
        faults[phase] = None
        if "original" in steps:
            faults[phase] = _fault(steps["original"])
        if faults[phase] is not None:
            del steps["original"]
        times[phase] = interleaved(steps, setting, clean_up)

    def figures(name: str, prefix: str = "") -> Row:
        row: Row = {f"{prefix}saved_ratio": saved[name]}
        for phase in PHASES:
            found = times[phase].get(name, [math.nan] * setting.rounds)
            row[f"{prefix}{phase}_ms"] = statistics.median(found)
            row[f"{prefix}{phase}_ratio"], row[f"{prefix}{phase}_spread"] = ratio(
                found, times[phase]["limit"]
            )
        return row

    for name in ("eager", "compiled"):
        if name not in candidates:
            continue
        row: Row = {
            "basis": basis,
            "compiled": name == "compiled",
            "channels": channels,
            "functions": n,
        }
        for phase in PHASES:
            row[f"limit_{phase}_ms"] = statistics.median(times[phase]["limit"])
        row |= figures(name)
        targets = [
            *case.targets(basis, channels, setting, compiled=name == "compiled"),
            case.saved_target(saved["limit"]),
        ]
        ratios = [row["forward_ratio"], row["forward_backward_ratio"], row["saved_ratio"]]
        row["reach"] = targets
        row["met"] = is_met(list(zip(ratios, targets, (2, 2, 1), strict=True)))
        if "original" in candidates:
            row |= figures("original", "original_")
            for phase in PHASES:
                row[f"original_{phase}_error"] = faults[phase]
        yield row


def _fault(step: Step) -> str | None:
    """The error of a step, None if it runs. Some layers of torch-conv-kan have no backward pass to
    their input.
    """
    try:
        step()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return None


def layer_table(rows: Sequence[Row], original: bool) -> str:
    """Format the rows as a Markdown table; `LayerCase.explained` describes the columns.

    Args:
        rows: of `layer_rows`.
        original: add the columns of torch-conv-kan.
    """
    header = [*HEADER, *HEADER_ORIGINAL] if original else HEADER
    lines = []
    for row in rows:
        name = str(row["basis"])
        if row["compiled"]:
            name += ", compiled"
        limit = f"{row['limit_forward_ms']:.3g} / {row['limit_forward_backward_ms']:.3g}"
        cells = [name, str(row["channels"]), str(row["functions"]), limit, *_ratio_cells(row)]
        cells += [format_targets(row["reach"]), yes_or_no(row["met"])]
        if original:
            cells += _ratio_cells(row, "original_")
        lines.append(cells)
    return markdown_table(header, lines)


def _ratio_cells(row: Row, prefix: str = "") -> list[str]:
    """Cells of the two phases and of the memory, relative to the limit."""
    if f"{prefix}saved_ratio" not in row:
        return ["-"] * 3
    cells = []
    for phase in PHASES:
        relative = Ratio(row[f"{prefix}{phase}_ratio"], row[f"{prefix}{phase}_spread"])
        cells.append("fails" if math.isnan(relative.median) else str(relative))
    cells.append(f"{row[f'{prefix}saved_ratio']:.1f}")
    return cells

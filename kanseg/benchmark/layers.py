"""A KAN convolution beside its limit: the plain convolution over channels that are expanded
already, or for shared functions the plain convolution with norm and SiLU.
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
from kanseg.benchmark.original import Original, forget
from kanseg.benchmark.report import answer, is_met, limits
from kanseg.layers import KANConv2d
from kanseg.layers.activation import KANActivation
from kanseg.models.operations import saved_bytes
from kanseg.utils.errors import InputError
from kanseg.utils.tables import markdown_table

_POLYNOMIAL = {32: (1.4, 1.4), 64: (1.2, 1.15)}
_PIECEWISE = {32: (1.5, 1.4), 64: (1.2, 1.2)}
# Targets: basis -> channels -> (forward, forward + backward), for (4, C, 64, 64), one group, eager
# float32 on one CPU thread.
REACH = dict.fromkeys(
    ("legendre", "chebyshev", "gram", "jacobi", "bernstein"), _POLYNOMIAL
) | dict.fromkeys(("bspline", "rbf", "relu"), _PIECEWISE)
REACH["wavelet"] = {32: (1.5, 1.5), 64: (1.25, 1.25)}
REACH_COMPILED = {32: (1.15, 1.15), 64: (1.1, 1.1)}
REACH_GROUPED = {16: {64: (1.3, 1.3)}}  # groups -> channels -> targets
REACH_SAVED = 4.0  # times the bytes of the input, in every case
# Targets for functions shared by a channel or more, compiled or not.
_SHARED_SMOOTH = {32: (1.15, 1.2), 64: (1.08, 1.12)}
_SHARED_PIECEWISE = {32: (1.3, 1.35), 64: (1.15, 1.2)}
REACH_SHARED = dict.fromkeys(
    ("legendre", "chebyshev", "gram", "jacobi", "bernstein", "fourier"), _SHARED_SMOOTH
) | dict.fromkeys(("bspline", "rbf", "relu", "wavelet", "hermite", "rational"), _SHARED_PIECEWISE)

PHASES = {"forward": False, "forward_backward": True}  # name -> in training mode
HEADER = ["basis", "C", "n", "limit ms", "forward", "fwd+bwd", "saved", "reach", "met"]
HEADER_ORIGINAL = ["torch-conv-kan forward", "fwd+bwd", "saved"]
EXPLAINED = """limit ms: {limit}; forward / forward+backward.
forward: in eval mode without gradients; fwd+bwd: in training mode, gradients of the input and of
all parameters; both as multiples of the limit measured in the same way (median of the rounds ± half
the distance between the quartiles).
saved: bytes kept for backward by those of the input, every storage once, parameters left out.
reach: targets for forward / fwd+bwd / saved{saved}.
fails: torch-conv-kan's layer raises an error there."""
EXPLAINED_LIMIT = """one nn.Conv2d(n * C, C, 3, padding=1, bias=False) on already expanded
channels, n = functions that are not constant + 1 for the base branch"""
EXPLAINED_LIMIT_SHARED = """one nn.Conv2d(C, C, 3, padding=1, bias=False) with nn.BatchNorm2d and
nn.SiLU on the same input (n = functions that are not constant + 1 for the base does not change
it)"""
Row = dict[str, object]


@dataclass(frozen=True)
class LayerCase:
    """The input, (batch, C, size, size), and the layer: C -> C, 3x3, padding 1, with its norm and
    activation.
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
            limit, saved = EXPLAINED_LIMIT_SHARED, " (what the limit keeps)"
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
        options = {"share": self.share} if self.is_shared else {}
        try:
            return KANConv2d(
                channels, channels, 3, padding=1, groups=self.groups, basis=basis, **options
            )
        except ValueError as error:
            raise InputError(str(error)) from error

    def limit(self, channels: int, n: int) -> nn.Module:
        """The limit of a layer with n functions per channel: (B, n * C, H, W) -> (B, C, H, W), or
        for shared functions (B, C, H, W) -> (B, C, H, W).
        """
        width = channels if self.is_shared else n * channels
        conv = nn.Conv2d(width, channels, 3, padding=1, groups=self.groups, bias=False)
        if not self.is_shared:
            return conv
        return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.SiLU())

    def reach(
        self, basis: str, channels: int, setting: Setting, compiled: bool
    ) -> tuple[float | None, float | None]:
        """Targets for forward and forward + backward; None if there are none."""
        measured = (self.size, self.batch, setting.device, setting.dtype)
        if measured != (64, 4, "cpu", "float32"):
            return None, None
        targets: dict[int, tuple[float, float]] = {}
        if self.groups == 1:
            if self.is_shared:
                targets = REACH_SHARED.get(basis, {})
            elif compiled:
                targets = REACH_COMPILED
            else:
                targets = REACH.get(basis, {})
        elif not self.is_shared and not compiled:
            targets = REACH_GROUPED.get(self.groups, {})
        return targets.get(channels, (None, None))

    def reach_saved(self, limit: float) -> float:
        """Target for the memory kept for backward, as a multiple of the bytes of the input.

        Args:
            limit: what the limit keeps.
        """
        return round(limit, 1) if self.is_shared else REACH_SAVED


class Candidate(NamedTuple):
    """A module in the comparison, and its own input."""

    module: nn.Module
    x: Tensor

    def step(self, setting: Setting, train: bool) -> Step:
        """The forward pass without gradients, or with `train` forward and backward to the input and
        all parameters.
        """
        module, x = self.module.train(train), self.x
        if not train:
            return lambda: _forward(module, x, setting)
        with setting.autocast():
            upstream = torch.randn_like(module(x))
        wanted = [x, *trained(module)]

        def both() -> None:
            with setting.autocast():
                y = module(x)
            torch.autograd.grad(y, wanted, upstream, allow_unused=True)

        return both

    def saved(self, setting: Setting) -> float:
        """Bytes kept for backward, as a multiple of the bytes of the input."""
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
    """A row for each basis and width, and with `case.compile` one more for the compiled layer.

    Raises:
        InputError: an unknown basis, or widths that the layer cannot have.
    """
    unknown = [basis for basis in bases if basis not in BASES]
    if unknown:
        raise InputError(f"unknown basis {unknown[0]!r} (known: {', '.join(BASES)})")
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
    """n: the functions but for a constant one, which is only a bias, plus the base branch. For
    functions of edges, the limit has n channels per channel of the layer.
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
    seen = x
    if not case.is_shared:
        expanded = (case.batch, n * channels, case.size, case.size)
        seen = torch.randn(
            expanded, device=setting.device, dtype=DTYPES[setting.dtype], requires_grad=True
        )
    limit = case.limit(channels, n).to(setting.device)
    found = {"limit": Candidate(limit, seen), "eager": Candidate(layer, x)}
    if case.compile:
        torch.compiler.reset()  # else the compiler gives up after some layers of one class
        found["compiled"] = Candidate(torch.compile(layer), x)
    if original is not None and basis in ORIGINAL_LAYERS:
        found["original"] = Candidate(
            original.layer(basis, channels, case.groups).to(setting.device), x
        )
    return n, found


def _measured(
    basis: str, channels: int, case: LayerCase, setting: Setting, original: Original | None
) -> Iterator[Row]:
    n, candidates = _candidates(basis, channels, case, setting, original)

    def tidy() -> None:
        if "original" in candidates:
            forget(candidates["original"].module)

    saved = {name: candidate.saved(setting) for name, candidate in candidates.items()}
    tidy()
    times, faults = {}, {}
    for phase, train in PHASES.items():
        steps = {name: candidate.step(setting, train) for name, candidate in candidates.items()}
        tidy()
        faults[phase] = _fault(steps["original"]) if "original" in steps else None
        if faults[phase]:
            del steps["original"]
        times[phase] = interleaved(steps, setting, tidy)

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
        reach = [
            *case.reach(basis, channels, setting, compiled=name == "compiled"),
            case.reach_saved(saved["limit"]),
        ]
        found = [row["forward_ratio"], row["forward_backward_ratio"], row["saved_ratio"]]
        row["reach"] = reach
        row["met"] = is_met(list(zip(found, reach, (2, 2, 1), strict=True)))
        if "original" in candidates:
            row |= figures("original", "original_")
            for phase in PHASES:
                row[f"original_{phase}_error"] = faults[phase]
        yield row


def _fault(step: Step) -> str | None:
    """The error of a step that does not run, None if it runs. Some layers of torch-conv-kan have no
    backward pass to their input.
    """
    try:
        step()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return None


def layer_table(rows: Sequence[Row], original: bool) -> str:
    """The rows in Markdown; `LayerCase.explained` describes the columns.

    Args:
        rows: of `layer_rows`.
        original: add the columns of torch-conv-kan.
    """
    header = [*HEADER, *HEADER_ORIGINAL] if original else HEADER
    lines = []
    for row in rows:
        name = f"{row['basis']}, compiled" if row["compiled"] else str(row["basis"])
        limit = " / ".join(f"{row[f'limit_{phase}_ms']:.3g}" for phase in PHASES)
        cells = [name, str(row["channels"]), str(row["functions"]), limit, *_ratio_cells(row)]
        cells += [limits(row["reach"]), answer(row["met"])]
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
    return [*cells, f"{row[f'{prefix}saved_ratio']:.1f}"]

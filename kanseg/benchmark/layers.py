"""A KAN convolution beside the plain convolution over already expanded channels, which is the limit
of what it can reach.
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
from kanseg.counting import saved_bytes
from kanseg.errors import InputError
from kanseg.layers import KANConv2d
from kanseg.tables import markdown

_POLYNOMIAL = {32: (1.4, 1.4), 64: (1.2, 1.15)}
_PIECEWISE = {32: (1.5, 1.4), 64: (1.2, 1.2)}
# What is to be reached: basis -> channels -> (forward, forward + backward), for (4, C, 64, 64), one
# group, eager float32 on one CPU thread.
REACH = dict.fromkeys(
    ("legendre", "chebyshev", "gram", "jacobi", "bernstein"), _POLYNOMIAL
) | dict.fromkeys(("bspline", "rbf", "relu"), _PIECEWISE)
REACH["wavelet"] = {32: (1.5, 1.5), 64: (1.25, 1.25)}
REACH_COMPILED = {32: (1.15, 1.15), 64: (1.1, 1.1)}
REACH_GROUPED = {(64, 16): (1.3, 1.3)}
REACH_SAVED = 4.0  # times the bytes of the input, in every case

PHASES = {"forward": False, "forward_backward": True}  # and whether that is in training mode
HEADER = ["basis", "C", "n", "limit ms", "forward", "fwd+bwd", "saved", "reach", "met"]
HEADER_ORIGINAL = ["torch-conv-kan forward", "fwd+bwd", "saved"]
EXPLAINED = """limit ms: one nn.Conv2d(n * C, C, 3, padding=1, bias=False) on already expanded
channels, n = functions that are not constant + 1 for the base branch; forward / forward+backward.
forward: in eval mode without gradients; fwd+bwd: in training mode, gradients of the input and of
all parameters; both as multiples of the limit measured in the same way (median of the rounds ± half
the distance between the quartiles).
saved: bytes kept for backward by those of the input, every storage once, parameters left out.
reach: what is aimed at for forward / fwd+bwd / saved.
fails: torch-conv-kan's layer raises an error there."""
Row = dict[str, object]


@dataclass(frozen=True)
class LayerCase:
    """What goes in, (batch, C, size, size), and how the layer is built: C -> C, 3x3, padding 1,
    with its norm and activation.
    """

    size: int = 64
    batch: int = 4
    groups: int = 1
    share: str = "edge"
    compile: bool = False

    def __str__(self) -> str:
        return (
            f"x = ({self.batch}, C, {self.size}, {self.size}), C -> C, 3x3, padding 1,"
            f" groups={self.groups}, share={self.share!r}"
        )

    def layer(self, basis: str, channels: int) -> KANConv2d:
        """As built by default; InputError for what KANConv2d refuses."""
        options = {} if self.share == "edge" else {"share": self.share}
        try:
            return KANConv2d(
                channels, channels, 3, padding=1, groups=self.groups, basis=basis, **options
            )
        except ValueError as error:
            raise InputError(str(error)) from error

    def reach(
        self, basis: str, channels: int, setting: Setting, compiled: bool
    ) -> tuple[float | None, float | None, float]:
        """Forward, forward + backward, saved; None where nothing is stated."""
        usual = (self.size, self.batch, self.share, setting.device, setting.dtype) == (
            64,
            4,
            "edge",
            "cpu",
            "float32",
        )
        found: tuple[float | None, float | None] = (None, None)
        if usual and self.groups != 1 and not compiled:
            found = REACH_GROUPED.get((channels, self.groups), found)
        elif usual and self.groups == 1:
            found = (REACH_COMPILED if compiled else REACH.get(basis, {})).get(channels, found)
        return *found, REACH_SAVED


class Candidate(NamedTuple):
    """A module in the comparison, and its own input."""

    module: nn.Module
    x: Tensor

    def step(self, setting: Setting, train: bool) -> Step:
        """The forward pass without gradients, or forward and backward down to the input and all
        parameters.
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
        """Bytes kept for backward, in those of the input."""
        module = self.module.train()

        def call() -> Tensor:
            with setting.autocast():
                return module(self.x)

        return saved_bytes(call, chain(module.parameters(), module.buffers())) / (
            self.x.numel() * self.x.element_size()
        )


def layer_rows(
    bases: Sequence[str],
    widths: Sequence[int],
    case: LayerCase,
    setting: Setting,
    original: Original | None = None,
) -> Iterator[Row]:
    """A row for each basis and width, and one more for the compiled layer where that is asked for.

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
    """n: channels of the limit per channel of the layer. Its functions without a constant one,
    which is but a bias, and the base branch.
    """
    each = layer.basis_conv.in_channels // layer.in_channels
    constant = each > 1 and layer.basis.constant_function is not None
    return each - constant + (layer.base_conv is not None)


def _candidates(
    basis: str, channels: int, case: LayerCase, setting: Setting, original: Original | None
) -> tuple[int, dict[str, Candidate]]:
    layer = case.layer(basis, channels).to(setting.device)
    n = functions_per_channel(layer)
    shape = (case.batch, channels, case.size, case.size)
    x = torch.randn(shape, device=setting.device, requires_grad=True)
    expanded = torch.randn(
        shape[0],
        n * channels,
        *shape[2:],
        device=setting.device,
        dtype=DTYPES[setting.dtype],
        requires_grad=True,
    )
    limit = nn.Conv2d(n * channels, channels, 3, padding=1, groups=case.groups, bias=False).to(
        setting.device
    )
    found = {"limit": Candidate(limit, expanded), "eager": Candidate(layer, x)}
    if case.compile:
        torch.compiler.reset()  # else the compiler gives up after so many layers of one class
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
        row |= {
            f"limit_{phase}_ms": statistics.median(times[phase]["limit"]) for phase in PHASES
        } | figures(name)
        reach = case.reach(basis, channels, setting, compiled=name == "compiled")
        found = [row["forward_ratio"], row["forward_backward_ratio"], row["saved_ratio"]]
        row |= {
            "reach": list(reach),
            "met": is_met(list(zip(found, reach, (2, 2, 1), strict=True))),
        }
        if "original" in candidates:
            row |= figures("original", "original_") | {
                f"original_{phase}_error": faults[phase] for phase in PHASES
            }
        yield row


def _fault(step: Step) -> str | None:
    """What torch says about a step that does not run: some layers there have no backward pass down
    to their input.
    """
    try:
        step()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return None


def layer_table(rows: Sequence[Row], original: bool) -> str:
    """As Markdown, what the columns are is told by `EXPLAINED`; `original`: with the columns of
    torch-conv-kan.
    """

    def triple(row: Row, prefix: str = "") -> list[str]:
        if f"{prefix}saved_ratio" not in row:
            return ["-"] * 3
        relative = [
            Ratio(row[f"{prefix}{phase}_ratio"], row[f"{prefix}{phase}_spread"]) for phase in PHASES
        ]
        return [
            *("fails" if math.isnan(each.median) else str(each) for each in relative),
            f"{row[f'{prefix}saved_ratio']:.1f}",
        ]

    lines = []
    for row in rows:
        start = [
            f"{row['basis']}{', compiled' if row['compiled'] else ''}",
            str(row["channels"]),
            str(row["functions"]),
        ]
        start.append(" / ".join(f"{row[f'limit_{phase}_ms']:.3g}" for phase in PHASES))
        lines.append(
            [
                *start,
                *triple(row),
                limits(row["reach"]),
                answer(row["met"]),
                *(triple(row, "original_") if original else []),
            ]
        )
    return markdown([*HEADER, *(HEADER_ORIGINAL if original else [])], lines)

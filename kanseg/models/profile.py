"""What a network costs, layer by layer: parameters, multiply-adds, memory for training, time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain

import torch
from torch import Tensor, nn

from kanseg.bases import Basis
from kanseg.layers.activation import KANActivation
from kanseg.layers.grids import Adaptive
from kanseg.models.operations import counted, left_as_found, place, saved_bytes
from kanseg.utils.tables import markdown_table

PARTS = ("base", "basis", "norm", "other")
HEADER = [
    "layer",
    "kind",
    "output",
    *(f"{part} params" for part in PARTS),
    "Mmadds",
    "of functions",
    "saved MiB",
    "ms",
]
EXPLAINED = """Parameters: base and basis are the two branches of KAN layers (bottleneck and
shared functions with the basis), norm all normalizations. Mmadds: millions of multiply-adds of a
forward pass, convolutions and matrix products as they are executed, and one per operation and entry
for evaluating the functions (shared ones as the polynomials or tables that they become); the next
column is these alone. saved MiB: kept for backward by a forward pass in training mode, every
storage once, parameters left out, the loss too. ms: forward in evaluation mode, a layer's own time
without the layers inside it."""


@dataclass
class Row:
    """What one layer costs by itself, without the layers inside it that have rows of their own.

    Args:
        name: as of `named_modules`, "" for the network itself.
        kind: its class.
        output: shape of what it returned, None where that is no tensor or it did not run.
        parameters: their number in each of `PARTS`; one that is shared counts where it is met
            first.
        contraction: multiply-adds of convolutions and matrix products.
        functions: operations of evaluating bases, one per entry.
        saved_bytes: kept for backward.
        milliseconds: median of the runs.
    """

    name: str
    kind: str
    output: tuple[int, ...] | None = None
    parameters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))
    contraction: int = 0
    functions: int = 0
    saved_bytes: int = 0
    milliseconds: float = 0.0

    @property
    def multiply_adds(self) -> int:
        """Of the contraction and of the functions."""
        return self.contraction + self.functions

    @property
    def num_parameters(self) -> int:
        """In all parts."""
        return sum(self.parameters.values())

    def _cells(self) -> list[str]:
        size = "" if self.output is None else "x".join(map(str, self.output))
        numbers = [f"{self.parameters[part]:,}" for part in PARTS]
        work = [f"{count / 1e6:,.3f}" for count in (self.multiply_adds, self.functions)]
        return [
            self.name,
            self.kind,
            size,
            *numbers,
            *work,
            f"{self.saved_bytes / 2**20:.3f}",
            f"{self.milliseconds:.3f}",
        ]


@dataclass
class Profile:
    """Rows for all layers in the order of `named_modules`; `print` shows them as a table, totals
    below.

    Args:
        input_size: what went in, the batch first.
        device: where.
        rows: every parameter, operation, kept byte and moment is in exactly one of them.
    """

    input_size: tuple[int, ...]
    device: str
    rows: list[Row]

    @property
    def total(self) -> Row:
        """The sum of the rows."""
        return _sum("total", self.rows)

    def to_dict(self) -> dict[str, object]:
        """Plain numbers, for JSON."""
        total = asdict(self.total) | {
            "multiply_adds": self.total.multiply_adds,
            "num_parameters": self.total.num_parameters,
        }
        return {
            "input_size": list(self.input_size),
            "device": self.device,
            "total": total,
            "layers": [asdict(row) for row in self.rows],
        }

    def __str__(self) -> str:
        # What merely passes tensors on has nothing but a little time; one line for all of it.
        costly: dict[bool, list[Row]] = {True: [], False: []}
        for row in self.rows:
            costly[bool(row.num_parameters or row.multiply_adds or row.saved_bytes)].append(row)
        total = self.total
        table = markdown_table(
            HEADER,
            [row._cells() for row in (*costly[True], _sum("(all else)", costly[False]), total)],
            text_columns=3,
        )
        totals = (
            f"{total.num_parameters:,} parameters, {total.multiply_adds / 1e6:,.1f} million"
            f" multiply-adds ({total.functions / 1e6:,.1f} in functions)"
        )
        size = "x".join(map(str, self.input_size))
        memory = (
            f"{total.saved_bytes / 2**20:.1f} MiB kept for backward, {total.milliseconds:.1f} ms"
        )
        return f"{table}\n\nInput {size} on {self.device}: {totals}, {memory}.\n{EXPLAINED}"


def profile(
    model: nn.Module, input_size: int | Sequence[int], *, runs: int = 5, training: bool = True
) -> Profile:
    """Measure a network, ours or any other, where it is; afterwards it is as it was.

    Layers are the modules that run: KAN layers as one each (a hook inside would change what they
    do), others down to those without parts. What a module does in its own `forward` is a row of
    that module. Time and multiply-adds are of a forward pass in evaluation mode, memory of one in
    training mode.

    Args:
        model: takes one tensor; what it returns does not matter.
        input_size: (C, H, W), (B, C, H, W), or the number of features of a flat net; without B the
            batch is 1.
        runs: how often it is timed; 0 for no times.
        training: whether to find what training keeps in memory.

    Raises:
        ValueError: not a size; in training mode a norm over a single value.
    """
    shape = _shape(input_size)
    device, dtype = place(model)
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    layers = dict(_layers(model))
    rows = {name: Row(name, type(layer).__name__) for name, layer in layers.items()}
    _count_parameters(model, layers, rows)
    with torch.no_grad(), left_as_found(model, training=False):
        with (
            _running(layers, rows) as running,
            counted(model, running.adder("contraction"), running.adder("functions")),
        ):
            model(x)
        _time(model, x, layers, rows, runs)
    if training:
        _count_memory(model, x, layers, rows)
    return Profile(shape, str(device), list(rows.values()))


class _Running:
    """Which layer is at work: hooks keep a stack of those that were entered."""

    def __init__(self, rows: dict[str, Row], clock: Callable[[], float] | None):
        self.rows, self.clock = rows, clock
        self.stack: list[str] = []
        self.spent = dict.fromkeys(rows, 0.0)
        self.since = 0.0

    def adder(self, attribute: str) -> Callable[[int], None]:
        """What adds a count to the layer at work (the whole network where that is none of them)."""

        def add(count: int) -> None:
            row = self.rows[self.stack[-1] if self.stack else ""]
            setattr(row, attribute, getattr(row, attribute) + count)

        return add

    def enter(self, name: str) -> None:
        self._tick()
        self.stack.append(name)

    def leave(self, name: str, output: object) -> None:
        self._tick()
        self.stack.pop()
        if isinstance(output, Tensor):
            self.rows[name].output = tuple(output.shape)

    def _tick(self) -> None:
        """The time since the last change is that of the layer on top."""
        if self.clock is None:
            return
        now = self.clock()
        if self.stack:
            self.spent[self.stack[-1]] += now - self.since
        self.since = now


@contextmanager
def _running(
    layers: dict[str, nn.Module], rows: dict[str, Row], clock: Callable[[], float] | None = None
) -> Iterator[_Running]:
    running = _Running(rows, clock)
    hooks = []
    for name, layer in layers.items():
        hooks.append(layer.register_forward_pre_hook(lambda _, __, name=name: running.enter(name)))
        hooks.append(
            layer.register_forward_hook(
                lambda _, __, output, name=name: running.leave(name, output)
            )
        )
    try:
        yield running
    finally:
        for hook in hooks:
            hook.remove()


def _count_memory(
    model: nn.Module, x: Tensor, layers: dict[str, nn.Module], rows: dict[str, Row]
) -> None:
    with (
        left_as_found(model, training=True),
        torch.enable_grad(),
        _running(layers, rows) as running,
    ):
        try:
            saved_bytes(
                lambda: model(x),
                chain(model.parameters(), model.buffers()),
                running.adder("saved_bytes"),
            )
        except ValueError as error:
            cure = (
                f"; profile a larger batch or image than {tuple(x.shape)}"
                if "more than 1 value per channel" in str(error)
                else ""
            )
            raise ValueError(f"{error}{cure}") from error


def _time(
    model: nn.Module, x: Tensor, layers: dict[str, nn.Module], rows: dict[str, Row], runs: int
) -> None:
    """Median milliseconds of every layer."""

    def clock() -> float:
        if x.device.type != "cpu":
            getattr(torch, x.device.type).synchronize()
        return time.perf_counter()

    times = []
    for _ in range(runs + 1 if runs else 0):
        with _running(layers, rows, clock) as running:
            model(x)
        times.append(running.spent)
    for name, row in rows.items() if times else ():
        row.milliseconds = (
            statistics.median(spent[name] for spent in times[1:]) * 1e3
        )  # without the first, which warms up


def _layers(
    model: nn.Module, name: str = "", seen: set[nn.Module] | None = None
) -> Iterator[tuple[str, nn.Module]]:
    """Every module once, down to layers that are watched as a whole."""
    seen = set() if seen is None else seen
    if model in seen:
        return
    seen.add(model)
    yield name, model
    if not _whole(model):
        for key, child in model.named_children():
            yield from _layers(child, f"{name}.{key}" if name else key, seen)


def _whole(layer: nn.Module) -> bool:
    """Whether it is a layer of functions, which leaves its fused path when a part of it is
    hooked.
    """
    return (
        isinstance(layer, Adaptive)
        or isinstance(getattr(layer, "basis", None), nn.Module)
        or any(isinstance(part, Basis) for part in layer.children())
    )


def _count_parameters(model: nn.Module, layers: dict[str, nn.Module], rows: dict[str, Row]) -> None:
    for path, parameter in model.named_parameters():
        owner, _, _ = path.rpartition(".")
        name = owner
        while name not in layers:
            name = name.rpartition(".")[0]
        inside = path[len(name) + 1 :] if name else path
        rows[name].parameters[_part(layers[name], model.get_submodule(owner), inside)] += (
            parameter.numel()
        )


def _part(layer: nn.Module, owner: nn.Module, inside: str) -> str:
    """Which of `PARTS` a parameter belongs to: `owner` has it, `inside` is its path within the
    layer.
    """
    if "norm" in type(owner).__name__.lower():
        return "norm"
    if not _whole(layer):
        return "other"
    if isinstance(owner, (KANActivation, Basis)):
        return "basis"
    if inside.startswith("base_"):
        return "base"
    return "other" if inside.startswith(("activation.", "base.")) else "basis"


def _sum(name: str, rows: Sequence[Row]) -> Row:
    total = Row(
        name, "", parameters={part: sum(row.parameters[part] for row in rows) for part in PARTS}
    )
    for attribute in ("contraction", "functions", "saved_bytes", "milliseconds"):
        setattr(total, attribute, sum(getattr(row, attribute) for row in rows))
    return total


def _shape(input_size: int | Sequence[int]) -> tuple[int, ...]:
    """The batch first."""
    size = (input_size,) if isinstance(input_size, int) else tuple(input_size)
    if not size or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in size):
        raise ValueError(
            "input_size must be (C, H, W), (B, C, H, W), or the features of a flat net, such as"
            f" (3, 256, 256) or 784, got {input_size!r}"
        )
    return (1, *size) if len(size) in (1, 3) else size

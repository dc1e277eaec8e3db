"""Cost of a network by layer: parameters, multiply-adds, memory for training, time."""

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
from kanseg.models.operations import count_operations, device_and_dtype, preserve_state, saved_bytes
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
EXPLANATION = """Parameters: base and basis are the two branches of KAN layers (basis includes
bottlenecks and shared functions), norm is all normalizations. Mmadds: millions of multiply-adds of
a forward pass, for convolutions and matrix products as executed, plus one per operation and entry
to evaluate the functions (shared functions as polynomials or tables); the next column is the
functions only. saved MiB: memory kept for backward by a forward pass in training mode, without
parameters and loss. ms: forward time in evaluation mode, without the layers inside a layer."""


@dataclass
class Row:
    """Cost of one layer, without the layers inside it that have rows of their own.

    Args:
        name: as in `named_modules`, "" for the network itself.
        kind: name of the class.
        output: shape of the output; None if it is not a tensor, or the layer did not run.
        parameters: number of parameters in each of `PARTS`; a shared one counts in the first layer.
        linear: multiply-adds of convolutions and matrix products.
        functions: operations of evaluating bases, one per entry.
        saved_bytes: bytes kept for backward.
        milliseconds: median of the runs.
    """

    name: str
    kind: str
    output: tuple[int, ...] | None = None
    parameters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))
    linear: int = 0
    functions: int = 0
    saved_bytes: int = 0
    milliseconds: float = 0.0

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of convolutions and matrix products plus operations of the functions."""
        return self.linear + self.functions

    @property
    def num_parameters(self) -> int:
        """Number of parameters in all parts."""
        return sum(self.parameters.values())

    def _cells(self) -> list[str]:
        size = ""
        if self.output is not None:
            size = "x".join(map(str, self.output))
        return [
            self.name,
            self.kind,
            size,
            *(f"{self.parameters[part]:,}" for part in PARTS),
            f"{self.multiply_adds / 1e6:,.3f}",
            f"{self.functions / 1e6:,.3f}",
            f"{self.saved_bytes / 2**20:.3f}",
            f"{self.milliseconds:.3f}",
        ]


@dataclass
class Profile:
    """Cost of all layers, in the order of `named_modules`; `print` shows a table with totals.

    Args:
        input_size: shape of the input, with the batch.
        device: device of the network.
        rows: one per layer; every parameter, operation, byte and millisecond is in exactly one row.
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
        # Layers that only pass tensors on take nothing but a little time: one line for all of them.
        costly, others = [], []
        for row in self.rows:
            is_costly = row.num_parameters or row.multiply_adds or row.saved_bytes
            (costly if is_costly else others).append(row)
        total = self.total
        shown = [*costly, _sum("(all else)", others), total]
        table = markdown_table(HEADER, [row._cells() for row in shown], text_columns=3)
        totals = (
            f"{total.num_parameters:,} parameters, {total.multiply_adds / 1e6:,.1f} million"
            f" multiply-adds ({total.functions / 1e6:,.1f} in functions)"
        )
        size = "x".join(map(str, self.input_size))
        memory = (
            f"{total.saved_bytes / 2**20:.1f} MiB kept for backward, {total.milliseconds:.1f} ms"
        )
        return f"{table}\n\nInput {size} on {self.device}: {totals}, {memory}.\n{EXPLANATION}"


def profile(
    model: nn.Module, input_size: int | Sequence[int], *, runs: int = 5, training: bool = True
) -> Profile:
    """Measure the cost of any network by layer; the network is left unchanged.

    Each module has a row for the work of its own `forward`. A KAN layer is one row, since hooks on
    its parts would disable the fused computation. Time and multiply-adds are those of a forward
    pass in evaluation mode, memory that of a forward pass in training mode.

    Args:
        model: network with one input tensor.
        input_size: (C, H, W), (B, C, H, W), or the number of features of a flat network; the batch
            size is 1 by default.
        runs: number of timed runs; 0 for no times.
        training: measure the memory of training.

    Raises:
        ValueError: an invalid size; in training mode a norm over a single value.
    """
    shape = _shape(input_size)
    device, dtype = device_and_dtype(model)
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    layers = dict(_layers(model))
    rows = {name: Row(name, type(layer).__name__) for name, layer in layers.items()}
    _count_parameters(model, layers, rows)
    with torch.no_grad(), preserve_state(model, training=False):
        with (
            _track_layers(layers, rows) as tracker,
            count_operations(model, tracker.adder("linear"), tracker.adder("functions")),
        ):
            model(x)
        _time(model, x, layers, rows, runs)
    if training:
        _count_memory(model, x, layers, rows)
    return Profile(shape, str(device), list(rows.values()))


class _LayerTracker:
    """Assigns counts and time to the running layer, by a stack of the layers that were entered."""

    def __init__(self, rows: dict[str, Row], clock: Callable[[], float] | None):
        self.rows, self.clock = rows, clock
        self.stack: list[str] = []
        self.spent = dict.fromkeys(rows, 0.0)
        self.since = 0.0

    def adder(self, attribute: str) -> Callable[[int], None]:
        """A function that adds a count to the running layer (outside all layers, the network)."""

        def add(count: int) -> None:
            name = self.stack[-1] if self.stack else ""
            row = self.rows[name]
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
        """Add the time since the last change to the layer on top of the stack."""
        if self.clock is None:
            return
        now = self.clock()
        if self.stack:
            self.spent[self.stack[-1]] += now - self.since
        self.since = now


@contextmanager
def _track_layers(
    layers: dict[str, nn.Module], rows: dict[str, Row], clock: Callable[[], float] | None = None
) -> Iterator[_LayerTracker]:
    tracker = _LayerTracker(rows, clock)
    hooks = []
    for name, layer in layers.items():
        hooks.append(layer.register_forward_pre_hook(lambda _, __, name=name: tracker.enter(name)))
        hooks.append(
            layer.register_forward_hook(
                lambda _, __, output, name=name: tracker.leave(name, output)
            )
        )
    try:
        yield tracker
    finally:
        for hook in hooks:
            hook.remove()


def _count_memory(
    model: nn.Module, x: Tensor, layers: dict[str, nn.Module], rows: dict[str, Row]
) -> None:
    with (
        preserve_state(model, training=True),
        torch.enable_grad(),
        _track_layers(layers, rows) as tracker,
    ):
        try:
            saved_bytes(
                lambda: model(x),
                chain(model.parameters(), model.buffers()),
                tracker.adder("saved_bytes"),
            )
        except ValueError as error:
            hint = ""
            if "more than 1 value per channel" in str(error):
                hint = f"; profile a larger batch or image than {tuple(x.shape)}"
            raise ValueError(f"{error}{hint}") from error


def _time(
    model: nn.Module, x: Tensor, layers: dict[str, nn.Module], rows: dict[str, Row], runs: int
) -> None:
    """Measure the median milliseconds of every layer."""

    def clock() -> float:
        if x.device.type != "cpu":
            getattr(torch, x.device.type).synchronize()
        return time.perf_counter()

    if runs == 0:
        return
    times = []
    for _ in range(runs + 1):
        with _track_layers(layers, rows, clock) as tracker:
            model(x)
        times.append(tracker.spent)
    for name, row in rows.items():
        # Without the first run, which warms up.
        row.milliseconds = statistics.median(spent[name] for spent in times[1:]) * 1e3


def _layers(
    model: nn.Module, name: str = "", visited: set[nn.Module] | None = None
) -> Iterator[tuple[str, nn.Module]]:
    """Names and modules, each module once, without the parts of KAN layers."""
    if visited is None:
        visited = set()
    if model in visited:
        return
    visited.add(model)
    yield name, model
    if not _is_kan_layer(model):
        for key, child in model.named_children():
            yield from _layers(child, f"{name}.{key}".removeprefix("."), visited)


def _is_kan_layer(layer: nn.Module) -> bool:
    """True for layers with functions, which do not compute in fused form if a part has hooks."""
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
        inside = path.removeprefix(f"{name}.")
        part = _part(layers[name], model.get_submodule(owner), inside)
        rows[name].parameters[part] += parameter.numel()


def _part(layer: nn.Module, owner: nn.Module, inside: str) -> str:
    """The one of `PARTS` that a parameter of the module `owner` belongs to; `inside` is its path
    within the layer.
    """
    if "norm" in type(owner).__name__.lower():
        return "norm"
    if not _is_kan_layer(layer):
        return "other"
    if isinstance(owner, (KANActivation, Basis)):
        return "basis"
    if inside.startswith("base_"):
        return "base"
    if inside.startswith(("activation.", "base.")):
        return "other"
    return "basis"


def _sum(name: str, rows: Sequence[Row]) -> Row:
    total = Row(name, "")
    for row in rows:
        for part in PARTS:
            total.parameters[part] += row.parameters[part]
    for attribute in ("linear", "functions", "saved_bytes", "milliseconds"):
        setattr(total, attribute, sum(getattr(row, attribute) for row in rows))
    return total


def _shape(input_size: int | Sequence[int]) -> tuple[int, ...]:
    """The shape of the input, with the batch."""
    if isinstance(input_size, int):
        input_size = (input_size,)
    size = tuple(input_size)
    if not size or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in size):
        raise ValueError(
            "input_size must be (C, H, W), (B, C, H, W), or the features of a flat net, such as"
            f" (3, 256, 256) or 784, got {input_size!r}"
        )
    if len(size) in (1, 3):
        return (1, *size)
    return size

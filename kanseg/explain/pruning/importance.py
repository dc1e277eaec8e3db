"""How much each unit contributes to a network's layers: the ranking of pruning."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from kanseg.explain.pruning.units import Unit, has_two_branches
from kanseg.layers.activation import KANActivation
from kanseg.layers.linear import KANLinear
from kanseg.models.operations import preserve_state

CRITERIA = ("contribution", "magnitude")
TINY = 1e-30  # of a layer whose outputs do not vary


class Variance:
    """Variance of each channel over batches, in double precision."""

    def __init__(self) -> None:
        self.count = 0
        self.sum = self.squares = torch.zeros(1, dtype=torch.float64)

    def add(self, x: Tensor, axis: int) -> None:
        """Add a batch of values with the channels on an axis."""
        values = x.detach().movedim(axis, 0).flatten(1).double()
        self.count += values.shape[1]
        self.sum = self.sum.to(values.device) + values.sum(1)
        self.squares = self.squares.to(values.device) + values.square().sum(1)

    def value(self) -> Tensor:
        """The variance of each channel (C,), on the CPU."""
        mean = self.sum / max(self.count, 1)
        return (self.squares / max(self.count, 1) - mean.square()).clamp_min(0).cpu()


def rank(
    network: nn.Module,
    units: Iterable[Unit],
    batches: Iterable[Tensor] = (),
    *,
    criterion: str = "contribution",
) -> list[Unit]:
    """Order units by what they contribute, the least first.

    With "contribution", a channel counts with the share that it has in the variance of the outputs
    of the layers that read it on data (variance of the channel times the squared weights that read
    it, summed over these layers), a basis branch and a function with its share in the variance
    of their layer. With "magnitude", the variances are taken as 1: only the weights count.

    Args:
        network: left as it was.
        units: of `find_units`.
        batches: images (B, C, H, W) as the network gets them, on its device; "magnitude" needs
            none.
        criterion: one of `CRITERIA`.

    Raises:
        ValueError: an unknown criterion.
    """
    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}")
    units = list(units)
    modules = dict(network.named_modules())
    if criterion == "contribution":
        variances = measure_variances(network, units, batches)
    else:
        variances = None
    shares = {}
    for name, side in dict.fromkeys(key for unit in units for key in unit.removes):
        if side == "in":
            shares[name, side] = _shares(_read_energy(modules[name], variances, name))
        elif side == "functions":
            shares[name, side] = _function_shares(modules[name], variances, name)
    contributions = []
    for unit in units:
        contribution = 0.0
        if unit.kind == "branch":
            contribution = _branch_share(modules[unit.layer], variances, unit.layer)
        for key, indices in unit.removes.items():
            if key in shares:
                contribution += float(shares[key][sorted(indices)].sum())
        contributions.append(contribution)
    order = sorted(range(len(units)), key=contributions.__getitem__)
    return [units[i] for i in order]


@torch.no_grad()
def measure_variances(
    network: nn.Module, units: Sequence[Unit], batches: Iterable[Tensor]
) -> dict[str, Variance]:
    """Variances on data: of the inputs of layers that read removable channels (under the name of
    the layer), of the two branches of KAN layers ("NAME: basis", "NAME: base"), and of functions
    ("NAME: functions", "NAME: output").
    """
    modules = dict(network.named_modules())
    variances: dict[str, Variance] = defaultdict(Variance)
    hooks = []

    def read_input(name: str, axis: int) -> None:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            variances[name].add(inputs[0], axis)

        hooks.append(modules[name].register_forward_pre_hook(hook))

    def read_output(module: nn.Module, name: str, axis: int) -> None:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            variances[name].add(output, axis)

        hooks.append(module.register_forward_hook(hook))

    def read_functions(name: str) -> None:
        def hook(module: KANActivation, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            variances[f"{name}: functions"].add(output - module.base(inputs[0]), 1)
            variances[f"{name}: output"].add(output, 1)

        hooks.append(modules[name].register_forward_hook(hook))

    for name, side in dict.fromkeys(key for unit in units for key in unit.removes):
        if side == "in":
            read_input(name, _channel_axis(modules[name]))
        elif side == "functions":
            read_functions(name)
    for unit in units:
        if unit.kind == "branch":
            basis, base = _branches(modules[unit.layer])
            read_output(basis, f"{unit.layer}: basis", _channel_axis(basis))
            read_output(base, f"{unit.layer}: base", _channel_axis(base))
    try:
        with preserve_state(network, training=False):
            for images in batches:
                network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return variances


def _channel_axis(module: nn.Module) -> int:
    return -1 if isinstance(module, nn.Linear) else 1


def _branches(layer: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The last modules of the basis branch and of the base branch of a KAN layer."""
    if isinstance(layer, KANLinear):
        return layer.basis_linear, layer.base_linear
    basis = layer.basis_conv
    if not isinstance(layer.expand, nn.Identity):
        basis = layer.expand
    return basis, layer.base_conv


def _shares(values: Tensor) -> Tensor:
    """Each value as a share of their sum."""
    return values / values.sum().clamp_min(TINY)


def _read_energy(layer: nn.Module, variances: dict[str, Variance] | None, name: str) -> Tensor:
    """Squared weights that read each input (I,), times the variance of the input."""
    energy = layer.weight.detach().double().movedim(1, 0).flatten(1).square().sum(1).cpu()
    if variances is None:
        return energy
    return energy * variances[name].value()


def _function_shares(
    layer: KANActivation, variances: dict[str, Variance] | None, name: str
) -> Tensor:
    """Share of each function (R,) in the outputs of its layer."""
    if variances is None:
        return _shares(layer.weight.detach().double().square().sum(1).cpu())
    varied = variances[f"{name}: functions"].value()
    row_of_channel = layer.weight_rows()
    has_function = row_of_channel >= 0
    sums = torch.zeros(layer.num_activations, dtype=torch.float64)
    sums.index_add_(0, row_of_channel[has_function], varied[has_function])
    return sums / variances[f"{name}: output"].value().sum().clamp_min(TINY)


def _branch_share(layer: nn.Module, variances: dict[str, Variance] | None, name: str) -> float:
    """Share of the basis branch in the outputs of its layer."""
    assert has_two_branches(layer)
    if variances is None:
        energies = [module.weight.detach().square().sum() for module in _branches(layer)]
    else:
        energies = [variances[f"{name}: {part}"].value().sum() for part in ("basis", "base")]
    basis, base = (float(energy) for energy in energies)
    return basis / max(basis + base, TINY)

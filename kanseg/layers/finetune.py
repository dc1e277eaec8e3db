"""Parameter-efficient fine-tuning: train small additions to the frozen weights of a network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kanseg.bases.bspline import BSpline
from kanseg.layers.grids import Adaptive, check_not_shared
from kanseg.layers.surgery import check_has_weights

LOW_RANK_PARTS = ("basis_conv", "base_conv", "basis_linear", "base_linear")


class LowRank(nn.Module):
    """weight + up @ down with up (O, rank), initially 0, and down (rank, other axes) (LoRA, Hu et
    al. 2021, arXiv:2106.09685).
    """

    def __init__(self, weight: Tensor, rank: int):
        super().__init__()
        flat = weight.flatten(1)
        rank = min(rank, *flat.shape)
        down = flat.new_empty(rank, flat.shape[1])
        self.down = nn.Parameter(nn.init.kaiming_uniform_(down, a=5**0.5))
        self.up = nn.Parameter(flat.new_zeros(len(flat), rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view_as(weight)


class ChosenFunctions(nn.Module):
    """weight (O, C * K, *kernel) plus a delta (O, C, n, *kernel), initially 0, for n of the K
    functions.
    """

    def __init__(self, weight: Tensor, num_functions: int, chosen: Sequence[int]):
        super().__init__()
        self.num_functions = num_functions
        self.chosen = nn.Buffer(torch.tensor(chosen, device=weight.device), persistent=False)
        per_function = weight.unflatten(1, (-1, num_functions))
        self.delta = nn.Parameter(torch.zeros_like(per_function.index_select(2, self.chosen)))

    def forward(self, weight: Tensor) -> Tensor:
        per_function = weight.unflatten(1, (-1, self.num_functions))
        return per_function.index_add(2, self.chosen, self.delta).flatten(1, 2)


def finetune(
    model: nn.Module,
    *,
    rank: int | None = None,
    extra_degrees: int = 0,
    trainable_degrees: Sequence[int] = (),
    grid_size: int | None = None,
    keep: Iterable[str] = (),
) -> nn.Module:
    """Freeze a network and add trainable deltas to the weights of its KAN layers; returns the
    network.

    The function of the network does not change: exactly with `rank` and `trainable_degrees`, up to
    rounding when functions are added. The deltas are parametrizations
    (`torch.nn.utils.parametrize`): the network can be copied and saved by its state dict, but not
    pickled; `fuse` restores the keys of a plain network. In training mode the running statistics of
    batch norms are still updated.

    Args:
        model: any module with KANConv or KANLinear layers, including those with basis "none".
        rank: rank of a low-rank delta on the weights of the functions and of the base branch of
            every KAN layer.
        extra_degrees: raise the degree of polynomial layers, and train the coefficients of the
            added degrees (of all functions if these are all new, as for Bernstein polynomials).
        trainable_degrees: degrees whose coefficients are trained too; layers without such a degree
            ignore it.
        grid_size: refine the grid of B-spline layers to this number of intervals (`refine`, tails
            kept), and train the coefficients of all refined splines.
        keep: patterns of further parameters that stay trainable, such as "segmentation_head.*" or
            "*.norm.*".

    Raises:
        ValueError: nothing to train, no suitable layer, a pattern without matching parameters, a
            network that is being fine-tuned already, layers that share a basis or the weights of
            their functions, or parts without a weight of their own.
    """
    adds_weights = rank is not None or extra_degrees or trainable_degrees or grid_size is not None
    if not adds_weights or extra_degrees < 0 or (rank is not None and rank < 1):
        raise ValueError(
            "finetune needs rank, extra_degrees, trainable_degrees or grid_size, each at least 1,"
            f" got rank={rank}, extra_degrees={extra_degrees}"
        )
    layers = [module for module in model.modules() if isinstance(module, Adaptive)]
    if any(parametrize.is_parametrized(module) for layer in layers for module in layer.modules()):
        raise ValueError(
            "the network already has parametrized weights (from an earlier finetune, weight norm,"
            " ...): fuse it first"
        )
    for layer in layers:
        check_has_weights(layer)
    if isinstance(keep, str):
        keep = [keep]
    names = [name for name, _ in model.named_parameters()]
    kept: set[str] = set()
    for pattern in keep:
        matching = [name for name in names if fnmatchcase(name, pattern)]
        if not matching:
            raise ValueError(
                f"keep has a pattern that matches no parameter: {pattern} (parameters have names"
                f" like {', '.join(names[-2:])})"
            )
        kept.update(matching)
    chosen = _add_functions(layers, extra_degrees, trainable_degrees, grid_size)
    low_rank = []
    if rank is not None:
        parts = [getattr(layer, name, None) for layer in layers for name in LOW_RANK_PARTS]
        low_rank = [part for part in parts if part is not None]
    if not chosen and not low_rank:
        raise ValueError(
            "no suitable layer: rank needs KAN layers, degrees need polynomials, grid_size needs"
            " B-splines"
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in kept)
    for layer, functions in chosen.items():
        weight = layer.functions_weight
        delta = ChosenFunctions(weight.detach(), layer.basis.num_functions, functions)
        owner = next(m for m in layer.modules() if getattr(m, "weight", None) is weight)
        parametrize.register_parametrization(owner, "weight", delta)
    for part in low_rank:
        parametrize.register_parametrization(part, "weight", LowRank(part.weight.detach(), rank))
    return model


def fuse(model: nn.Module) -> nn.Module:
    """Add the deltas of `finetune` to the weights in place.

    The result is a plain network with its original keys and the same function, fully trainable.
    """
    for module in list(model.modules()):
        if not parametrize.is_parametrized(module):
            continue
        for name, steps in list(module.parametrizations.items()):
            if all(isinstance(step, (LowRank, ChosenFunctions)) for step in steps):
                _remove(module, name)
    return model.requires_grad_(True)


def _remove(module: nn.Module, name: str) -> None:
    """Replace a parametrized tensor by a parameter with its current value.

    `parametrize.remove_parametrizations` cannot remove the last one: it deletes a property of a
    class that copies of the module share.
    """
    value = nn.Parameter(getattr(module, name).detach().clone())
    if len(module.parametrizations) > 1:
        parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        return
    module.__class__ = type(module).__bases__[0]
    del module.parametrizations
    module.register_parameter(name, value)


def _add_functions(
    layers: list[nn.Module], extra: int, trainable: Sequence[int], grid_size: int | None
) -> dict[nn.Module, list[int]]:
    """Raise degrees and refine grids; return the functions to train for each layer."""
    splines = []
    if grid_size is not None:
        splines = [layer for layer in layers if isinstance(layer.basis, BSpline)]
    for layer in splines:
        layer.basis.check_finer(grid_size)
    if extra or splines:
        check_not_shared(layer for layer in layers if layer.basis is not None)
    chosen: dict[nn.Module, list[int]] = {}
    for layer in splines:
        layer.refine(grid_size)
        chosen[layer] = list(range(layer.basis.num_functions))
    for layer in layers:
        if not hasattr(layer.basis, "degree"):
            continue
        functions = {j for j in trainable if 0 <= j < layer.basis.num_functions}
        if extra and layer.basis.has_degree:
            functions |= _raise_degree(layer, layer.basis.degree + extra)
        if functions:
            chosen[layer] = sorted(functions)
    return chosen


def _raise_degree(layer: nn.Module, degree: int) -> set[int]:
    """Raise the degree of a layer; return its new functions.

    These are all functions if the old ones are not among them.
    """
    old, before = layer.basis.num_functions, layer.functions_weight.detach().clone()
    layer.raise_degree(degree)
    new = layer.basis.num_functions
    first_weights = layer.functions_weight.detach().unflatten(1, (-1, new))[:, :, :old]
    if torch.equal(first_weights, before.unflatten(1, (-1, old))):
        return set(range(old, new))
    return set(range(new))

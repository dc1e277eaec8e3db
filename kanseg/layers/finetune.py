"""Fine-tuning of a few new weights on top of a trained network whose own weights stay as
they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kanseg.bases import Basis
from kanseg.bases.bspline import BSpline
from kanseg.layers.grids import Adaptive, check_not_shared
from kanseg.layers.surgery import check_has_weights

LOW_RANK_MAPS = ("basis_conv", "base_conv", "basis_linear", "base_linear")


class LowRank(nn.Module):
    """weight + up @ down, (O, rank) @ (rank, everything else), with up = 0 at the start (LoRA, Hu
    et al. 2021, arXiv:2106.09685).
    """

    def __init__(self, weight: Tensor, rank: int):
        super().__init__()
        flat = weight.flatten(1)
        rank = min(rank, *flat.shape)
        self.down = nn.Parameter(
            nn.init.kaiming_uniform_(flat.new_empty(rank, flat.shape[1]), a=5**0.5)
        )
        self.up = nn.Parameter(flat.new_zeros(len(flat), rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view_as(weight)


class ChosenFunctions(nn.Module):
    """weight (O, C * K, *kernel) plus a delta for some of the K functions: (O, C, number of them,
    *kernel), 0 at the start.
    """

    def __init__(self, weight: Tensor, num_functions: int, chosen: Sequence[int]):
        super().__init__()
        self.num_functions = num_functions
        self.chosen = nn.Buffer(torch.tensor(chosen, device=weight.device), persistent=False)
        each = weight.unflatten(1, (-1, num_functions))
        self.delta = nn.Parameter(torch.zeros_like(each.index_select(2, self.chosen)))

    def forward(self, weight: Tensor) -> Tensor:
        return (
            weight.unflatten(1, (-1, self.num_functions))
            .index_add(2, self.chosen, self.delta)
            .flatten(1, 2)
        )


def finetune(
    model: nn.Module,
    *,
    rank: int | None = None,
    extra_degrees: int = 0,
    trainable_degrees: Sequence[int] = (),
    grid_size: int | None = None,
    keep: Iterable[str] = (),
) -> nn.Module:
    """Freeze a network and add deltas to the weights of its KAN layers, the only parameters that
    train; returns the network.

    The function stays what it was: exactly with `rank` and `trainable_degrees`, to rounding where
    functions are added. The deltas are parametrizations (`torch.nn.utils.parametrize`): such a
    network can be copied and saved by its state dict, but not pickled, and its keys are those of a
    plain network again after `fuse`. In training mode the running statistics of batch norms go on
    following the data.

    Args:
        model: any module with KANConv or KANLinear layers, those of basis "none" included.
        rank: of a low-rank delta on the weight of the functions and of the base branch of every KAN
            layer.
        extra_degrees: raise the degree of polynomial layers, and train what is new: the
            coefficients of the added degrees, or of all functions where these are all new
            (Bernstein).
        trainable_degrees: degrees of which the coefficients train as well, in the same layers; a
            layer that lacks one of them ignores it.
        grid_size: refine the grid of B-spline layers to so many intervals (`refine`, tails kept),
            and train the coefficients of all finer splines.
        keep: patterns such as "segmentation_head.*" or "*.norm.*" of parameters that stay
            trainable.

    Raises:
        ValueError: nothing to train was asked for, no layer can do it, a pattern that fits nothing,
            a network that is being fine-tuned; layers that share a basis or the weights of their
            functions, or parts without a weight of their own.
    """
    asked = rank is not None or extra_degrees or trainable_degrees or grid_size is not None
    if not asked or extra_degrees < 0 or (rank is not None and rank < 1):
        raise ValueError(
            "finetune needs rank, extra_degrees, trainable_degrees or grid_size, each at least 1,"
            f" got rank={rank}, extra_degrees={extra_degrees}"
        )
    layers = [module for module in model.modules() if isinstance(module, Adaptive)]
    if any(parametrize.is_parametrized(module) for layer in layers for module in layer.modules()):
        raise ValueError(
            "the network has parametrized weights already (an earlier finetune, weight norm, ...):"
            " fuse it first"
        )
    for layer in layers:
        check_has_weights(layer)
    keep = [keep] if isinstance(keep, str) else keep
    names = [name for name, _ in model.named_parameters()]
    unfit = [pattern for pattern in keep if not any(fnmatchcase(name, pattern) for name in names)]
    if unfit:
        raise ValueError(
            f"keep has patterns that fit no parameter: {', '.join(unfit)} (parameters are named"
            f" like {', '.join(names[-2:])})"
        )
    chosen = _changed(layers, extra_degrees, trainable_degrees, grid_size)
    low_rank = (
        [getattr(layer, name, None) for layer in layers for name in LOW_RANK_MAPS]
        if rank is not None
        else []
    )
    low_rank = [each for each in low_rank if each is not None]
    if not chosen and not low_rank:
        raise ValueError(
            "no layer can do that: low ranks need KAN layers, degrees polynomials, a grid_size"
            " B-splines"
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in keep))
    for layer, functions in chosen.items():
        parametrize.register_parametrization(
            _functions_owner(layer),
            "weight",
            ChosenFunctions(layer.functions_weight.detach(), layer.basis.num_functions, functions),
        )
    for each in low_rank:
        parametrize.register_parametrization(each, "weight", LowRank(each.weight.detach(), rank))
    return model


def fuse(model: nn.Module) -> nn.Module:
    """Add the deltas of `finetune` to the weights, in place: a plain network with its own keys and
    the same function, all of it trainable again.
    """
    for module, name in list(_parametrized(model)):
        if all(
            isinstance(step, (LowRank, ChosenFunctions)) for step in module.parametrizations[name]
        ):
            _remove(module, name)
    return model.requires_grad_(True)


def _functions_owner(layer: nn.Module) -> nn.Module:
    """The part of a layer whose `weight` holds the coefficients of the functions."""
    owners = [module for module in layer.modules() if hasattr(module, "weight")]
    return next(each for each in owners if each.weight is layer.functions_weight)


def _remove(module: nn.Module, name: str) -> None:
    """Leave the computed tensor as a parameter.

    Not by `parametrize.remove_parametrizations`: that takes the property off a class which copies
    of the module share.
    """
    value = nn.Parameter(getattr(module, name).detach().clone())
    if len(module.parametrizations) > 1:
        parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        return
    module.__class__ = type(module).__bases__[0]
    del module.parametrizations
    module.register_parameter(name, value)


def _changed(
    layers: list[nn.Module], extra: int, trainable: Sequence[int], grid_size: int | None
) -> dict[nn.Module, list[int]]:
    """Raise degrees and refine grids; for each layer the functions whose coefficients are to
    train.
    """
    splines = [
        layer for layer in layers if grid_size is not None and isinstance(layer.basis, BSpline)
    ]
    for layer in splines:
        layer.basis.check_finer(grid_size)
    if extra or splines:
        check_not_shared(layer for layer in layers if layer.basis is not None)
    for layer in splines:
        layer.refine(grid_size)
    chosen = {layer: list(range(layer.basis.num_functions)) for layer in splines}
    for layer in (layer for layer in layers if hasattr(layer.basis, "degree")):
        functions = {j for j in trainable if 0 <= j < layer.basis.num_functions}
        if extra and type(layer.basis).raise_degree is not Basis.raise_degree:
            functions |= _raised(layer, layer.basis.degree + extra)
        chosen |= {layer: sorted(functions)} if functions else {}
    return chosen


def _raised(layer: nn.Module, degree: int) -> set[int]:
    """Raise the degree of a layer; the functions that are new: those added, or all where the old
    ones are not among them.
    """
    old, before = layer.basis.num_functions, layer.functions_weight.detach().clone()
    layer.raise_degree(degree)
    new = layer.basis.num_functions
    kept = layer.functions_weight.detach().unflatten(1, (-1, new))[:, :, :old]
    return set(range(old if torch.equal(kept, before.unflatten(1, (-1, old))) else 0, new))


def _parametrized(module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """The modules inside one, itself included, and the names of their parametrized tensors."""
    for each in module.modules():
        if parametrize.is_parametrized(each):
            yield from ((each, name) for name in each.parametrizations)

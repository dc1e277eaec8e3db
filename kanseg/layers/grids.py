"""Grid updates and refinement, and raising the degree, of the functions of KAN layers."""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from kanseg.bases import Basis
from kanseg.bases.base import replace_values
from kanseg.bases.bspline import BSpline
from kanseg.layers.regularization import kan_layers
from kanseg.layers.surgery import check_changeable

SAMPLES = 4096  # values per channel that a grid is fitted to


class Adaptive(ABC):
    """Mixin of KANConv, KANLinear and KANActivation: change the functions and refit the weights.

    The weights stay the same `nn.Parameter` and lose their gradient, so that optimizers, averaged
    models and DistributedDataParallel keep working. The state of an optimizer (moments, momentum)
    refers to the old functions: pass the optimizer to reset its state for these weights only. If it
    is not passed, the old moments fade out after `update_grid`; after a change of the number of
    functions the next step of an optimizer with moments fails with a size mismatch.
    """

    @abstractmethod
    def basis_input(self, x: Tensor) -> Tensor:
        """The input of the basis, before its domain map, for the layer's input x: (B, C, *S)."""

    @abstractmethod
    def _set_functions_weight(self, weight: nn.Parameter) -> None:
        """Replace the coefficients of the functions."""

    def update_grid(
        self,
        x: Tensor,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        seed: int = 0,
        distributed: bool | None = None,
    ) -> None:
        """Move the grid to the quantiles of the basis's inputs, and refit the weights by least
        squares on them.

        Args:
            x: a batch of inputs of the layer; 4096 values per channel are used, drawn evenly over
                all pixels.
            optimizer: the optimizer in use, see the class.
            seed: seed of this draw, which does not use the global generator.
            distributed: broadcast the result of the first process of `torch.distributed`, in which
                case all processes must call this. Default: if there are several processes; False
                for a call in one process only.

        Raises:
            ValueError: the basis has no grid, x is empty or not finite, or the weights are
                parametrized, pruned or sharded.
        """
        _run_on_first_process(lambda: self._update_grid(x, seed), [self], distributed)
        forget_moments(optimizer, [self])

    @torch.no_grad()
    def _update_grid(self, x: Tensor, seed: int) -> Tensor:
        """`update_grid` in this process; return the samples that the grid was fitted to."""
        self.check_has_grid()
        samples = self._samples(x)
        if samples.numel() == 0:
            raise ValueError(f"update_grid needs inputs, got none in shape {tuple(x.shape)}")
        if not torch.isfinite(samples).all():
            raise ValueError(
                "update_grid needs finite inputs, got NaN or infinity in a tensor of shape"
                f" {tuple(x.shape)}"
            )
        samples = self._pooled(evenly_chosen(samples, SAMPLES, seed), seed)
        self.fit_grid(samples)
        return samples

    @torch.no_grad()
    def fit_grid(self, samples: Tensor) -> None:
        """Move the grid to samples (C, n) of the mapped input of the basis, and refit the weights
        on them.
        """
        self._refit(self._adaptive_basis().update_grid(samples))

    @torch.no_grad()
    def refine(
        self,
        grid_size: int,
        *,
        keep_tails: bool = True,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        """Split the intervals of a B-spline grid; the layer computes the same function as before.

        Args:
            grid_size: intervals on the range of the current grid, a multiple of the current number.
            keep_tails: extend the grid by the tails of the outermost splines, so that the function
                stays the same everywhere. `basis.grid_size` then counts the intervals of the
                extended range `basis.grid_limits()`; build a layer with these two values to load
                the weights. Without tails the function stays the same on the grid only, and needs
                fewer basis functions.
            optimizer: the optimizer in use, see the class.

        Raises:
            ValueError: the basis has no nested grids, `grid_size` is not a multiple, or the network
                is inside DistributedDataParallel, which holds the old weights.
        """
        basis = self._adaptive_basis()
        check_not_distributed(self)
        self._refit(basis.refine(grid_size, keep_tails=keep_tails))
        forget_moments(optimizer, [self])

    @torch.no_grad()
    def raise_degree(self, degree: int, *, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Raise the degree of the functions; the layer computes the same function as before.

        Args:
            degree: the new degree.
            optimizer: the optimizer in use, see the class.

        Raises:
            ValueError: the basis has no degree, the new degree is lower, or the network is inside
                DistributedDataParallel, which holds the old weights.
        """
        basis = self._adaptive_basis()
        check_not_distributed(self)
        self._refit(basis.raise_degree(degree))
        forget_moments(optimizer, [self])

    @torch.no_grad()
    def off_grid_share(self, x: Tensor) -> float:
        """Fraction of the basis's inputs, for the layer's input x, that lies outside the grid.

        Raises:
            ValueError: the basis has no grid.
        """
        samples = self._samples(x)
        lo, hi = (limit.unsqueeze(1) for limit in self.basis.grid_limits())
        return float(((samples < lo) | (samples > hi)).double().mean())

    def _samples(self, x: Tensor) -> Tensor:
        """The mapped input of the basis, (C, n)."""
        self._check_has_functions()
        return self.basis.mapped(self.basis_input(x)).transpose(0, 1).flatten(1)

    def _pooled(self, samples: Tensor, seed: int) -> Tensor:
        """Samples (C, n), pooled over the channels if these share a function."""
        return samples

    def check_has_grid(self) -> None:
        """Raise ValueError unless the layer has a grid that can be moved."""
        self._adaptive_basis().grid_limits()

    def _check_has_functions(self) -> None:
        if self.basis is not None:
            return
        if getattr(self, "share", "edge") != "edge":
            raise ValueError(
                "the shared functions are in the layer's KANActivation (`layer.activation`, or"
                " `layer.base_activation` with position='before_conv'): call this method on it"
            )
        raise ValueError("a layer with basis 'none' has no functions and no grid")

    def _adaptive_basis(self) -> Basis:
        self._check_has_functions()
        check_changeable(self)
        if type(self.functions_weight) is not nn.Parameter:
            raise ValueError(
                f"the weights are a {type(self.functions_weight).__name__} (sharded or offloaded):"
                " gather them first, then change the functions"
            )
        return self.basis

    def _refit(self, change: Tensor) -> None:
        """Compute the weights of the new functions from those of the old ones.

        Args:
            change: (C or 1, K, K'), old_i = sum_j change[c, i, j] new_j.
        """
        weight = self.functions_weight
        change = change.to(device=weight.device)
        old = weight.double()
        old_functions = change.shape[1]
        if self.share != "edge":
            rows = torch.zeros(len(old), dtype=torch.int64)
            if len(change) > 1:
                rows = self._first_channels()
            new = torch.einsum("cK,cKL->cL", old, change[rows.to(change.device)])
        else:
            groups = getattr(self, "groups", 1)
            change = change.expand(self.basis.channels, -1, -1).unflatten(0, (groups, -1))
            taps = old[0, 0].numel()
            grouped = old.reshape(groups, len(old) // groups, -1, old_functions, taps)
            new = torch.einsum("gocKt,gcKL->gocLt", grouped, change)
            new = new.reshape(len(old), -1, *old.shape[2:])
        new = new.to(weight.dtype)
        if weight.is_inference() and not torch.is_inference_mode_enabled():
            weight = nn.Parameter(new, requires_grad=weight.requires_grad)
        elif weight.shape == new.shape:
            weight.copy_(new)
            weight.grad = None
        else:
            replace_values(weight, new)
        self._set_functions_weight(weight)


def evenly_chosen(samples: Tensor, count: int, seed: int = 0) -> Tensor:
    """Choose at most `count` columns of (C, n): a random one from each of `count` equal intervals.

    A fixed step could hit the same image column in every row.
    """
    n = samples.shape[1]
    if n <= count:
        return samples
    generator = torch.Generator().manual_seed(seed)
    within = torch.rand(count, dtype=torch.float64, generator=generator)
    indices = ((torch.arange(count, dtype=torch.float64) + within) * (n / count)).long()
    return samples[:, indices.clamp_max(n - 1).to(samples.device)]


def update_grids(
    model: nn.Module,
    x: Tensor | Sequence[Tensor],
    *,
    optimizer: torch.optim.Optimizer | None = None,
    copies: Sequence[nn.Module] = (),
    seed: int = 0,
    distributed: bool | None = None,
) -> None:
    """Move the grids of all layers to their inputs for x; also possible during training.

    Layers are updated in the order of the forward pass, each on the outputs of updated layers. A
    layer that is used more than once follows the inputs of its first use. The model runs in
    evaluation mode and uncompiled; a compiled model is compiled again at its next call. Weights
    stay the same parameters. The global random generator is not used.

    Args:
        model: any module; also inside torch.compile, DataParallel or DistributedDataParallel.
        x: a batch of images, or several batches of images of one size, which are concatenated.
        optimizer: the optimizer in use; its state for the refitted weights is dropped.
        copies: networks with the same layers (an average of the weights): they get the same grids,
            and their own weights are refitted.
        seed: seed of the draw of 4096 samples per channel.
        distributed: as in `Adaptive.update_grid`; all processes get the grids and weights of the
            first one.

    Raises:
        ValueError: as `Adaptive.update_grid`; copies with other layers; layers that share a basis
            or weights.
    """
    if not isinstance(x, Tensor):
        sizes = {tuple(batch.shape[1:]) for batch in x}
        if len(sizes) != 1:
            raise ValueError(f"the batches must hold images of one size, got {sorted(sizes)}")
        x = torch.cat(list(x))
    model = unwrapped(model)
    with_grids = set(_layers_with_grids(model))
    layers = {name: layer for name, layer in model.named_modules() if layer in with_grids}
    all_layers = list(layers.values())
    copied_modules = [dict(unwrapped(copy).named_modules()) for copy in copies]
    for modules in copied_modules:
        missing = [name for name in layers if not isinstance(modules.get(name), Adaptive)]
        if missing:
            raise ValueError(f"a copy of the network has no such layer: {', '.join(missing)}")
        all_layers += [modules[name] for name in layers]
    for layer in all_layers:
        layer.check_has_grid()  # before any layer is changed
    check_not_shared(layers.values())

    def update_all() -> None:
        names = {layer: name for name, layer in layers.items()}
        updated: set[nn.Module] = set()

        def update(layer: Adaptive, layer_input: Tensor) -> None:
            if layer in updated:
                return
            updated.add(layer)
            samples = layer._update_grid(layer_input, seed)
            for modules in copied_modules:
                modules[names[layer]].fit_grid(samples)

        call_before_layers(model, x, _layers_with_grids(model), update)

    _run_on_first_process(update_all, all_layers, distributed)
    forget_moments(optimizer, layers.values())


def forget_moments(optimizer: Any | None, layers: Iterable[Adaptive]) -> None:
    """Drop the state of an optimizer for the weights of these layers' functions, and for the
    parameters of their bases.
    """
    if optimizer is None:
        return
    inner = getattr(optimizer, "optimizer", optimizer)  # Accelerate's wrapper holds another
    if isinstance(inner, torch.optim.LBFGS):
        inner.state.clear()  # LBFGS has one history for all parameters together
        inner._numel_cache = None
        return
    for layer in layers:
        for parameter in (layer.functions_weight, *layer.basis.parameters()):
            optimizer.state.pop(parameter, None)


def _run_on_first_process(
    update: Callable[[], object], layers: Sequence[Adaptive], distributed: bool | None
) -> None:
    """Call `update`, which changes the functions of the layers.

    With several processes only the first one calls it, and broadcasts the result or the error.
    """
    is_distributed = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    if not is_distributed or distributed is False:
        update()
        return
    error: ValueError | None = None
    message: list[str | None] = [None]
    if dist.get_rank() == 0:
        try:
            update()
        except ValueError as raised:
            error, message = raised, [str(raised)]
    dist.broadcast_object_list(message, src=0)
    if message[0] is not None:
        raise error or ValueError(f"the first process: {message[0]}")
    with torch.no_grad():
        for layer in layers:
            state = {name: value.clone() for name, value in layer.basis.state_dict().items()}
            weight = layer.functions_weight.detach().clone()
            for tensor in (*state.values(), weight):
                dist.broadcast(tensor, src=0)
            layer.basis.load_state_dict(state)
            layer.functions_weight.copy_(weight)
            layer.functions_weight.grad = None


def check_not_distributed(layer: nn.Module) -> None:
    """Raise ValueError if the layer is inside DistributedDataParallel, whose gradient buffers have
    the sizes of the old weights.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    gc.collect()  # deleted wrappers must not count
    for wrapper in gc.get_objects():
        if issubclass(type(wrapper), DistributedDataParallel) and layer in set(wrapper.modules()):
            raise ValueError(
                "the network is inside DistributedDataParallel, which needs the old size of the"
                " weights: take `module` out of it, delete the wrapper, change the functions, and"
                " wrap the network again"
            )


def check_not_shared(layers: Iterable[Adaptive]) -> None:
    """Raise ValueError if two layers share a basis or the weight of their functions: refitting one
    layer would change the function of the other.
    """
    layers = list(layers)
    for attribute in ("basis", "functions_weight"):
        parts = [getattr(layer, attribute) for layer in layers]
        if len({id(part) for part in parts}) < len(parts):
            raise ValueError(
                f"several layers share one {attribute}, and refitting one of them would change the"
                " others: give each layer its own first (copy.deepcopy)"
            )


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside torch.compile, DataParallel, DistributedDataParallel or AveragedModel."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif isinstance(model, (nn.DataParallel, DistributedDataParallel, AveragedModel)):
            model = model.module
        else:
            return model


@torch.no_grad()
def refine_grids(
    model: nn.Module,
    grid_size: int,
    *,
    keep_tails: bool = True,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Refine the grids of all B-spline layers of a model (see `Adaptive.refine`).

    Raises:
        ValueError: before any layer is changed, if `grid_size` is not a multiple of the number of
            intervals of every layer.
    """
    layers = _layers_with_grids(unwrapped(model))
    layers = [layer for layer in layers if isinstance(layer.basis, BSpline)]
    for layer in layers:
        layer._adaptive_basis().check_finer(grid_size)
    check_not_shared(layers)
    for layer in layers:
        layer.refine(grid_size, keep_tails=keep_tails, optimizer=optimizer)


def refine_functions(
    model: nn.Module,
    *,
    grid_size: int | None = None,
    degree: int | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> list[str]:
    """Refine the functions of all layers that are coarser; the network computes the same function
    as before. The other layers stay as they are.

    Args:
        model: any module, also inside torch.compile.
        grid_size: intervals for the B-spline layers with fewer (`Adaptive.refine`, tails kept).
        degree: for the polynomial layers with a lower one (`Adaptive.raise_degree`).
        optimizer: the optimizer in use; its state for the changed weights is dropped.

    Returns:
        Names of the layers that have changed.

    Raises:
        ValueError: before any layer is changed, if none would change, or if `grid_size` is not a
            multiple of the number of intervals of each layer with fewer.
    """
    splines, polynomials = {}, {}
    for name, layer in unwrapped(model).named_modules():
        if not isinstance(layer, Adaptive) or layer.basis is None:
            continue
        basis = layer.basis
        if isinstance(basis, BSpline) and grid_size and basis.nominal_size < grid_size:
            splines[name] = layer
        elif basis.has_degree and degree and basis.degree < degree:
            polynomials[name] = layer
    for size, layers, what in (
        (grid_size, splines, f"B-splines of fewer than {grid_size} intervals"),
        (degree, polynomials, f"polynomials of a lower degree than {degree}"),
    ):
        if size is not None and not layers:
            raise ValueError(f"no layer of this network has {what}")
    for name, layer in splines.items():
        try:
            layer.basis.check_finer(grid_size)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    layers = splines | polynomials
    check_not_shared(layers.values())
    for layer in splines.values():
        layer.refine(grid_size, optimizer=optimizer)
    for layer in polynomials.values():
        layer.raise_degree(degree, optimizer=optimizer)
    return list(layers)


@torch.no_grad()
def off_grid_shares(model: nn.Module, x: Tensor) -> dict[str, float]:
    """Name of each layer with a grid -> fraction of its inputs outside the grid, for x."""
    shares: dict[str, float] = {}
    model = unwrapped(model)
    names = {layer: name for name, layer in model.named_modules()}

    def measure(layer: Adaptive, layer_input: Tensor) -> None:
        shares[names[layer]] = layer.off_grid_share(layer_input)

    call_before_layers(model, x, _layers_with_grids(model), measure)
    return shares


def call_before_layers(
    model: nn.Module,
    x: Tensor,
    layers: Iterable[nn.Module],
    function: Callable[[nn.Module, Tensor], None],
) -> None:
    """Run the model on x, in evaluation mode and uncompiled, and call function(layer, input) before
    each of the layers runs.
    """

    def before_forward(layer: nn.Module, arguments: tuple, named: dict[str, object]) -> None:
        layer_input = arguments[0] if arguments else named["x"]
        function(layer, layer_input)

    training = {module: module.training for module in model.modules()}
    hooks = [layer.register_forward_pre_hook(before_forward, with_kwargs=True) for layer in layers]
    try:
        model.eval()
        with torch.no_grad(), _without_compiler(model):
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in training.items():
            module.training = mode


def _layers_with_grids(model: nn.Module) -> list[nn.Module]:
    return [layer for layer in kan_layers(model) if layer.basis.has_grid]


@contextmanager
def _without_compiler(model: nn.Module) -> Iterator[None]:
    """Context in which the model runs uncompiled: hooks that change layers cannot be compiled."""
    compiled: dict[nn.Module, object] = {}
    for module in model.modules():
        if getattr(module, "_compiled_call_impl", None) is not None:
            compiled[module] = module._compiled_call_impl
    stance = nullcontext()
    if hasattr(torch.compiler, "set_stance"):  # since torch 2.6
        stance = torch.compiler.set_stance("force_eager")
    try:
        for module in compiled:
            module._compiled_call_impl = None
        with stance:
            yield
    finally:
        for module, call in compiled.items():
            module._compiled_call_impl = call

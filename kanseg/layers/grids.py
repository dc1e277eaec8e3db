"""Grids that adapt: to the data, to a finer one, to a higher degree."""

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
from kanseg.bases.bspline import BSpline
from kanseg.layers.regularization import kan_layers
from kanseg.layers.surgery import check_changeable

SAMPLES = 4096  # a channel, that a grid is fitted to


class Adaptive(ABC):
    """Methods of KANConv, KANLinear and KANActivation that change their functions after they were
    built, and refit the weights.

    The weights stay the same `nn.Parameter`, so that an optimizer, an average of the weights or
    DistributedDataParallel goes on with them, and lose their gradient. What an optimizer has
    gathered about them (Adam's moments, a momentum) belongs to the old functions: name it
    (`optimizer=`) and it starts anew for these weights, the others keep theirs. Without it the old
    moments of `update_grid` fade as they do, and an optimizer with moments stops at its next step
    with an error of sizes where the number of functions has changed.
    """

    @abstractmethod
    def basis_input(self, x: Tensor) -> Tensor:
        """The input of the basis, before its domain map, for the layer's input x: (B, C, *S)."""

    @abstractmethod
    def _set_functions_weight(self, weight: nn.Parameter) -> None:
        """Put new coefficients of the functions in the place of the old ones."""

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
            x: a batch of inputs of the layer; the more pixels, the better the quantiles (4096 a
                channel are used, drawn evenly over all of them).
            optimizer: one in use, see above.
            seed: of the draw, which has a generator of its own.
            distributed: all processes of `torch.distributed` take over what the first one finds for
                its x; all of them must call this then. By default where there is more than one
                process; False for a call of one process alone.

        Raises:
            ValueError: the basis has no grid, or x is empty or not finite; weights that are
                parametrized, pruned or sharded.
        """
        _by_first_process(lambda: self._update_grid(x, seed), [self], distributed)
        forget_moments(optimizer, [self])

    @torch.no_grad()
    def _update_grid(self, x: Tensor, seed: int) -> Tensor:
        """`update_grid` in this process; return the samples that the grid was fitted to."""
        self.check_has_grid()
        samples = self._samples(x)
        if samples.numel() == 0 or not torch.isfinite(samples).all():
            found = "none" if samples.numel() == 0 else "NaN or infinity"
            raise ValueError(
                f"a grid can follow finite inputs only, got {found} in a tensor of {tuple(x.shape)}"
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
        """Cut the intervals of a B-spline grid; the layer computes the same function as before.

        Args:
            grid_size: intervals on the range of the present grid, a multiple of the present number.
            keep_tails: widen the grid by the tails of the outermost splines, so that the function
                stays the same everywhere; `basis.grid_size` then counts the intervals of the
                widened range (`basis.grid_limits()`), and a layer that is to load the weights is
                built with these two. Without tails it stays the same on the grid only, with fewer
                functions.
            optimizer: one in use, see above.

        Raises:
            ValueError: the basis has no nested grids, or a number that is no multiple; a network
                inside DistributedDataParallel, which holds the old weights.
        """
        basis = self._adaptive_basis()
        check_not_distributed(self)
        self._refit(basis.refine(grid_size, keep_tails=keep_tails))
        forget_moments(optimizer, [self])

    @torch.no_grad()
    def raise_degree(self, degree: int, *, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Allow a higher degree; the layer computes the same function as before.

        Args:
            degree: the new one.
            optimizer: one in use, see above.

        Raises:
            ValueError: the basis has no degree, or a lower one was asked for; a network inside
                DistributedDataParallel, which holds the old weights.
        """
        basis = self._adaptive_basis()
        check_not_distributed(self)
        self._refit(basis.raise_degree(degree))
        forget_moments(optimizer, [self])

    @torch.no_grad()
    def off_grid_share(self, x: Tensor) -> float:
        """Share of the basis's inputs, for the layer's input x, that lies outside the grid.

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
        """Samples (C, n) as they are, or pooled over the channels that share a function."""
        return samples

    def check_has_grid(self) -> None:
        """ValueError unless the layer has a grid that can be moved."""
        self._adaptive_basis().grid_limits()

    def _check_has_functions(self) -> None:
        if self.basis is not None:
            return
        if getattr(self, "share", "edge") != "edge":
            raise ValueError(
                "the shared functions are in the layer's KANActivation (`layer.activation`, or"
                " `layer.base_activation` where they stand before the convolution): change that"
            )
        raise ValueError("a layer with basis 'none' has no functions and no grid")

    def _adaptive_basis(self) -> Basis:
        self._check_has_functions()
        check_changeable(self)
        if type(self.functions_weight) is not nn.Parameter:
            raise ValueError(
                f"the weights are a {type(self.functions_weight).__name__}, spread over processes"
                " or held elsewhere: gather them first, then change the functions"
            )
        return self.basis

    def _refit(self, change: Tensor) -> None:
        """New weights for functions of which the old ones are combinations: old_i = sum_j change[c,
        i, j] new_j; change (C, K, K').
        """
        change = change.to(device=self.functions_weight.device)
        old = self.functions_weight.double()
        old_functions = change.shape[1]
        if self.share != "edge":
            rows = self._first_channels() if len(change) > 1 else torch.zeros(len(old)).long()
            new = torch.einsum("cK,cKL->cL", old, change[rows.to(change.device)])
        else:
            groups = getattr(self, "groups", 1)
            change = change.expand(self.basis.channels, -1, -1).unflatten(0, (groups, -1))
            taps = old[0, 0].numel()
            split = old.reshape(groups, len(old) // groups, -1, old_functions, taps)
            new = torch.einsum("gocKt,gcKL->gocLt", split, change).reshape(
                len(old), -1, *old.shape[2:]
            )
        weight, new = self.functions_weight, new.to(self.functions_weight.dtype)
        if weight.is_inference() and not torch.is_inference_mode_enabled():
            weight = nn.Parameter(new, requires_grad=weight.requires_grad)
        elif weight.shape == new.shape:
            weight.copy_(new)
        else:
            weight.data = new
        weight.grad = None
        self._set_functions_weight(weight)


def evenly_chosen(samples: Tensor, count: int, seed: int = 0) -> Tensor:
    """At most `count` columns of (C, n): one at random out of each of `count` stretches of equal
    length. A fixed step would meet the same column of every image.
    """
    n = samples.shape[1]
    if n <= count:
        return samples
    generator = torch.Generator().manual_seed(seed)
    within = torch.rand(count, dtype=torch.float64, generator=generator)
    places = ((torch.arange(count, dtype=torch.float64) + within) * (n / count)).long()
    return samples[:, places.clamp_max(n - 1).to(samples.device)]


def update_grids(
    model: nn.Module,
    x: Tensor | Sequence[Tensor],
    *,
    optimizer: torch.optim.Optimizer | None = None,
    copies: Sequence[nn.Module] = (),
    seed: int = 0,
    distributed: bool | None = None,
) -> None:
    """Move the grids of all layers with grids to their inputs for x, one layer after the other,
    each seeing the layers before it updated. Right in the middle of a training, too.

    A layer that is used more than once follows the inputs of its first use. The model runs in
    evaluation mode, without a compiler; a compiled one compiles anew at its next call. Weights stay
    the same parameters. Random numbers are not used up.

    Args:
        model: any module; also one inside torch.compile, DataParallel or DistributedDataParallel.
        x: a batch, or several of them, of images of one size, which are joined (B in all).
        optimizer: one in use: its moments for the refitted weights, which refer to the old
            functions, are forgotten; everything else in it stays.
        copies: networks of the same layers that are kept beside it (an average of its weights):
            they get the same grids, each refitted to its own functions.
        seed: of the draw of 4096 samples a channel.
        distributed: as of `Adaptive.update_grid`: the grids and weights that the first process
            finds for its x are those of all.

    Raises:
        ValueError: whatever `Adaptive.update_grid` raises; copies with other layers; layers that
            share a basis or weights.
    """
    if not isinstance(x, Tensor):
        sizes = {tuple(batch.shape[1:]) for batch in x}
        if len(sizes) != 1:
            raise ValueError(f"the batches must hold images of one size, got {sorted(sizes)}")
        x = torch.cat(list(x))
    model = unwrapped(model)
    with_grids = set(_layers_with_grids(model))
    layers = {name: layer for name, layer in model.named_modules() if layer in with_grids}
    twins = [dict(unwrapped(copy).named_modules()) for copy in copies]
    for twin in twins:
        missing = [name for name in layers if not isinstance(twin.get(name), Adaptive)]
        if missing:
            raise ValueError(f"a copy of the network has no such layer: {', '.join(missing)}")
    all_layers = [*layers.values(), *(twin[name] for twin in twins for name in layers)]
    for layer in all_layers:
        layer.check_has_grid()  # refused before any is changed
    check_not_shared(layers.values())

    def find() -> None:
        names = {layer: name for name, layer in layers.items()}
        done: set[nn.Module] = set()

        def update(layer: Adaptive, layer_input: Tensor) -> None:
            if layer in done:
                return
            done.add(layer)
            samples = layer._update_grid(layer_input, seed)
            for twin in twins:
                twin[names[layer]].fit_grid(samples)

        _for_each_grid(model, x, update)

    _by_first_process(find, all_layers, distributed)
    forget_moments(optimizer, layers.values())


def forget_moments(optimizer: Any | None, layers: Iterable[Adaptive]) -> None:
    """Drop an optimizer's state for the weights of the functions of these layers."""
    if optimizer is None:
        return
    weights = {layer.functions_weight for layer in layers}
    inner = getattr(optimizer, "optimizer", optimizer)  # Accelerate's wrapper holds another
    if isinstance(inner, torch.optim.LBFGS):
        inner.state.clear()  # one history for all parameters together
        inner._numel_cache = None
        return
    for weight in weights:
        optimizer.state.pop(weight, None)


def _by_first_process(
    find: Callable[[], object], layers: Sequence[Adaptive], distributed: bool | None
) -> None:
    """Call `find`, which changes the functions of the layers; where there are several processes
    the first one alone does, and all take over what it has found.
    """
    together = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    if not together or distributed is False:
        find()
        return
    error: ValueError | None = None
    if dist.get_rank() == 0:
        try:
            find()
        except ValueError as raised:
            error = raised
    message = [None if error is None else str(error)]
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
    """ValueError where a DistributedDataParallel holds the layer: it adds up gradients in buffers
    of the sizes that the weights had when it was made.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    gc.collect()  # one that was taken off is gone
    for wrapper in gc.get_objects():
        if issubclass(type(wrapper), DistributedDataParallel) and layer in set(wrapper.modules()):
            raise ValueError(
                "the network is inside DistributedDataParallel, which holds weights of the old"
                " size: take `module` out of it, delete the wrapper, change the functions, and"
                " wrap it anew"
            )


def check_not_shared(layers: Iterable[Adaptive]) -> None:
    """ValueError where two layers have one basis or one weight of the functions: what is refitted
    for the one would be another function in the other.
    """
    layers = list(layers)
    for what, name in (("basis", "basis"), ("functions_weight", "weight of the functions")):
        parts = [getattr(layer, what) for layer in layers]
        if len({id(part) for part in parts}) < len(parts):
            raise ValueError(
                f"several layers share one {name}, which cannot be right for all of them after a"
                " change: give each its own first (copy.deepcopy)"
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
    """Refine all B-spline layers of a model; those whose number of intervals does not divide
    `grid_size` are an error before any is changed. `optimizer` is as of `update_grids`.
    """
    layers = [
        layer for layer in _layers_with_grids(unwrapped(model)) if isinstance(layer.basis, BSpline)
    ]
    for layer in layers:
        layer._adaptive_basis().check_finer(grid_size)
    check_not_shared(layers)
    for layer in layers:
        layer.refine(grid_size, keep_tails=keep_tails, optimizer=optimizer)


@torch.no_grad()
def off_grid_shares(model: nn.Module, x: Tensor) -> dict[str, float]:
    """Name of each layer with a grid -> share of its inputs, for x, outside the grid."""
    shares: dict[str, float] = {}
    model = unwrapped(model)
    names = {layer: name for name, layer in model.named_modules()}

    def measure(layer: Adaptive, layer_input: Tensor) -> None:
        shares[names[layer]] = layer.off_grid_share(layer_input)

    _for_each_grid(model, x, measure)
    return shares


def _for_each_grid(
    model: nn.Module, x: Tensor, function: Callable[[Adaptive, Tensor], None]
) -> None:
    """Run the model on x; call function(layer, its input) for every layer with a grid, before the
    layer computes.
    """

    def before(layer: Adaptive, arguments: tuple, named: dict[str, object]) -> None:
        layer_input = arguments[0] if arguments else named["x"]
        function(layer, layer_input)

    training = {module: module.training for module in model.modules()}
    hooks = [
        layer.register_forward_pre_hook(before, with_kwargs=True)
        for layer in _layers_with_grids(model)
    ]
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
    """Run the model uncompiled within the context: hooks that change layers cannot be compiled."""
    compiled = {
        module: module._compiled_call_impl
        for module in model.modules()
        if getattr(module, "_compiled_call_impl", None) is not None
    }
    eager = getattr(torch.compiler, "set_stance", None)  # since torch 2.6
    try:
        for module in compiled:
            module._compiled_call_impl = None
        with nullcontext() if eager is None else eager("force_eager"):
            yield
    finally:
        for module, call in compiled.items():
            module._compiled_call_impl = call

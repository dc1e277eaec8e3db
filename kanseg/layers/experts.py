"""Mixtures of experts: several convolutions in place of one, a few of which process each image."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanseg.bases.base import at_least_float32, without_autocast
from kanseg.layers.blocks import Conv
from kanseg.layers.fused.plain import is_transformed
from kanseg.layers.parts import reset
from kanseg.layers.regularization import penalty

MIN_NOISE = 1e-2


class ConvExperts(nn.Module):
    """sum_e gate_e(x) * expert_e(x) over the top_k experts of each sample: (B, in_channels, *S) ->
    (B, out_channels, *S').

    Noisy top-k gating on the mean over all pixels (Shazeer et al. 2017, arXiv:1701.06538, eqs. 3 to
    5): in training logits = W_g m + N(0, 1) * softplus(W_n m), in evaluation W_g m; the gates are
    the softmax of the top_k largest logits, 0 elsewhere. Samples do not influence each other. Gates
    and noise start at zero; each expert has its own initial weights.

    A training forward stores the load-balancing loss in `balance`. Add it to the loss with
    `balance_loss(model)`, `Penalty(model, {"balance": 0.01})` or `training.penalty`; without it
    most samples tend to go to a few experts. With top_k=1 the gate is always 1 and learns from the
    balance alone.

    An expert and its batch norm process only the samples that chose it; in training a single sample
    of one pixel is too little for a batch norm. Under `torch.compile`, `torch.export`, tracing,
    `torch.func` and on the meta device, where no operation may depend on the data, all experts
    process all samples: the same function in evaluation at num_experts / top_k times the work, and
    batch norms over the whole batch in training.

    Args:
        in_channels, out_channels, kernel_size, conv_options: arguments of each expert (stride=,
            padding=, ...).
        conv: (in_channels, out_channels, kernel_size, ...) -> module.
        num_experts: number of convolutions.
        top_k: number of experts that process a sample.
        noise: choose experts with noise in training. Without it the load has no gradient, and
            `balance` is the importance loss only.

    Raises:
        ValueError: top_k outside 1 to num_experts.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        conv: Conv,
        num_experts: int = 4,
        top_k: int = 2,
        noise: bool = True,
        **conv_options: object,
    ):
        super().__init__()
        if not 1 <= top_k <= num_experts:
            raise ValueError(
                f"top_k must be from 1 to the number of experts, got top_k={top_k} of {num_experts}"
            )
        self.top_k = top_k
        self.experts = nn.ModuleList(
            conv(in_channels, out_channels, kernel_size, **conv_options) for _ in range(num_experts)
        )
        self.gate = nn.Parameter(torch.zeros(num_experts, in_channels))
        self.spread = None
        # If all experts are chosen anyway, noise would only blur the gates.
        if noise and top_k < num_experts:
            self.spread = nn.Parameter(torch.zeros(num_experts, in_channels))
        self.balance: Tensor | None = None

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Reset the gates and the experts to their initial state."""
        for expert in self.experts:
            reset(expert)
        self.gate.zero_()
        if self.spread is not None:
            self.spread.zero_()
        self.balance = None

    def forward(self, x: Tensor) -> Tensor:
        with without_autocast(x):
            gates, chosen, load = self.gates(at_least_float32(x).flatten(2).mean(dim=2))
        if self.training and torch.is_grad_enabled():
            self.balance = squared_variation(gates.sum(dim=0))
            if load is not None:
                self.balance = self.balance + squared_variation(load)
        if is_transformed() or len(x) == 0 or x.is_meta:
            return sum(_scaled(expert(x), gates[:, e]) for e, expert in enumerate(self.experts))
        return self._run_chosen(x, gates, chosen)

    def gates(self, means: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Gates (B, E), chosen experts (B, E) as booleans, and expected load (E,), for channel
        means (B, in_channels).

        The load of an expert is the sum over the samples of the probability that it is among the
        top_k if its noise is drawn again; None without noise.
        """
        clean = logits = F.linear(means, self.gate.to(means.dtype))
        has_noise = self.training and self.spread is not None
        if has_noise:
            deviation = F.softplus(F.linear(means, self.spread.to(means.dtype))) + MIN_NOISE
            logits = clean + torch.randn_like(clean) * deviation
        # A stable sort gives ties to the first expert, whatever else is in the batch.
        values, order = logits.sort(dim=1, descending=True, stable=True)
        best = order[:, : self.top_k]
        gates = torch.zeros_like(logits).scatter(1, best, values[:, : self.top_k].softmax(dim=1))
        # A tensor of ones: torch.jit.trace cannot record a scatter of the number True.
        ones = torch.ones_like(best, dtype=torch.bool)
        chosen = torch.zeros_like(logits, dtype=torch.bool).scatter(1, best, ones)
        if not has_noise:
            return gates, chosen, None
        # The logit to exceed: the largest one outside the top_k, or the smallest one inside.
        threshold = torch.where(
            chosen, values[:, self.top_k, None], values[:, self.top_k - 1, None]
        )
        load = torch.special.ndtr((clean - threshold) / deviation).sum(dim=0)
        return gates, chosen, load

    def _run_chosen(self, x: Tensor, gates: Tensor, chosen: Tensor) -> Tensor:
        """Run each expert on the samples that chose it."""
        counts = chosen.sum(dim=0).tolist()
        indices = chosen.T.nonzero()[:, 1].split(counts)
        total, unused = None, []
        for e, (expert, samples) in enumerate(zip(self.experts, indices, strict=True)):
            if len(samples) == 0:
                unused += expert.parameters()
                continue
            y = _scaled(expert(x[samples]), gates[samples, e])
            if total is None:
                total = y.new_zeros(len(x), *y.shape[1:])
            total.index_add_(0, samples, y)
        if unused and self.training and torch.is_grad_enabled():
            # DistributedDataParallel needs a gradient for every parameter: zero for unused experts.
            total = total + 0.0 * sum(p.sum() for p in unused).to(total.dtype)
        return total

    def __getstate__(self) -> dict[str, object]:
        """Leave `balance` out of copies and pickles: it is part of an autograd graph."""
        return {**self.__dict__, "balance": None}

    def extra_repr(self) -> str:
        return f"num_experts={len(self.experts)}, top_k={self.top_k}"


def _scaled(y: Tensor, gate: Tensor) -> Tensor:
    return y * gate.to(y.dtype).reshape(-1, *[1] * (y.dim() - 1))


def squared_variation(amounts: Tensor) -> Tensor:
    """Squared coefficient of variation of (E,) amounts, variance / mean^2; 0 if all are equal."""
    return amounts.var(correction=0) / amounts.mean().square().clamp_min(1e-10)


def balance_loss(model: nn.Module) -> Tensor | float:
    """CV(importance)^2 + CV(load)^2 of the latest training forward, summed over all `ConvExperts`
    (Shazeer et al. 2017, eqs. 6 to 11).

    Importance is the sum of an expert's gates over the batch, load its expected number of samples.
    0.0 without experts or training forward. Each loss is returned once: do not combine this with a
    `Penalty` of "balance".
    """
    total = 0.0
    for layer in expert_layers(model):
        if layer.balance is not None:
            total = total + _pop_balance(layer)
    return total


def expert_layers(model: nn.Module) -> Iterator[nn.Module]:
    """The mixtures of experts inside a model."""
    return (module for module in model.modules() if isinstance(module, ConvExperts))


@penalty("balance", layers=expert_layers, of="mixtures of experts (model.options.experts)")
def _pop_balance(layer: nn.Module, output: Tensor | None = None) -> Tensor:
    """The stored loss of a layer, which is returned once; the output is not needed."""
    balance, layer.balance = layer.balance, None
    return balance

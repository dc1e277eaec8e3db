"""Mixtures of experts: several convolutions in the place of one, of which each image is sent
through a few.
"""

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

LEAST_NOISE = 1e-2


class ConvExperts(nn.Module):
    """sum_e gate_e(x) * expert_e(x) over the top_k experts of each sample: (B, in_channels, *S) ->
    (B, out_channels, *S').

    Noisy top-k gating on the mean over all pixels (Shazeer et al. 2017, arXiv:1701.06538, eqs. 3 to
    5): in training logits = W_g m + N(0, 1) * softplus(W_n m), in evaluation W_g m; the gates are
    the softmax of the top_k largest, 0 elsewhere. A sample looks at no other one. Gates and noise
    start at zero, experts each with weights of their own.

    A training forward leaves the load-balancing loss in `balance`; `balance_loss(model)`, or
    `Penalty(model, {"balance": 0.01})` and `training.penalty`, add it to the loss of the network.
    Without it a few experts tend to take all samples. With top_k=1 the gate is 1 whatever the
    logits are, and learns from the balance alone.

    An expert runs on its own samples only, and its batch norm sees only these: in training one
    sample of one pixel is too little for it. Under `torch.compile`, `torch.export`, tracing,
    `torch.func` and on the device meta, where no operation may depend on the samples, all experts
    run on all of them: the same function in evaluation, num_experts / top_k times the work, and in
    training batch norms that see the whole batch.

    Args:
        in_channels, out_channels, kernel_size, where: what an expert is built with (stride=,
        padding=, ...).
        conv: (in_channels, out_channels, kernel_size, ...) -> module.
        num_experts: number of convolutions.
        top_k: how many of them a sample goes through.
        noise: draw the choice in training; without it the load has no gradient, and `balance` holds
            the importance only.

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
        **where: object,
    ):
        super().__init__()
        if not 1 <= top_k <= num_experts:
            raise ValueError(
                f"top_k must be from 1 to the number of experts, got top_k={top_k} of {num_experts}"
            )
        self.top_k = top_k
        self.experts = nn.ModuleList(
            conv(in_channels, out_channels, kernel_size, **where) for _ in range(num_experts)
        )
        self.gate = nn.Parameter(torch.zeros(num_experts, in_channels))
        # Without a choice to draw, noise would only blur the gates.
        self.spread = (
            nn.Parameter(torch.zeros(num_experts, in_channels))
            if noise and top_k < num_experts
            else None
        )
        self.balance: Tensor | None = None

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Put the mixture back to what it was when it was built, its experts included."""
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
            self.balance = variation(gates.sum(dim=0)) + (0.0 if load is None else variation(load))
        if is_transformed() or len(x) == 0 or x.is_meta:
            return sum(_scaled(expert(x), gates[:, e]) for e, expert in enumerate(self.experts))
        return self._by_expert(x, gates, chosen)

    def gates(self, means: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Gates (B, E), the chosen experts (B, E) as booleans, and the expected load (E,), from
        channel means (B, in_channels).

        The load, the sum over the samples of the chance to be among the top_k if one's own noise
        were drawn anew, is None where nothing is drawn.
        """
        clean = logits = F.linear(means, self.gate.to(means.dtype))
        drawn = self.training and self.spread is not None
        if drawn:
            deviation = F.softplus(F.linear(means, self.spread.to(means.dtype))) + LEAST_NOISE
            logits = clean + torch.randn_like(clean) * deviation
        values, order = logits.sort(
            dim=1, descending=True, stable=True
        )  # equals go to the first expert, whatever else is in the batch
        best = order[:, : self.top_k]
        gates = torch.zeros_like(logits).scatter(1, best, values[:, : self.top_k].softmax(dim=1))
        # A tensor of ones: torch.jit.trace cannot record a scatter of the number True.
        ones = torch.ones_like(best, dtype=torch.bool)
        chosen = torch.zeros_like(logits, dtype=torch.bool).scatter(1, best, ones)
        if not drawn:
            return gates, chosen, None
        to_beat = torch.where(chosen, values[:, self.top_k, None], values[:, self.top_k - 1, None])
        return gates, chosen, torch.special.ndtr((clean - to_beat) / deviation).sum(dim=0)

    def _by_expert(self, x: Tensor, gates: Tensor, chosen: Tensor) -> Tensor:
        """Each expert on the samples that chose it."""
        counts = chosen.sum(dim=0).tolist()
        rows = chosen.T.nonzero()[:, 1].split(counts)
        total, idle = None, []
        for e, (expert, mine) in enumerate(zip(self.experts, rows, strict=True)):
            if len(mine) == 0:
                idle += expert.parameters()
                continue
            y = _scaled(expert(x[mine]), gates[mine, e])
            total = y.new_zeros(len(x), *y.shape[1:]) if total is None else total
            total.index_add_(0, mine, y)
        if idle and self.training and torch.is_grad_enabled():
            # Many processes add up gradients parameter by parameter, and each must have one: zero
            # for experts without a sample.
            total = total + 0.0 * sum(p.sum() for p in idle).to(total.dtype)
        return total

    def __getstate__(self) -> dict[str, object]:
        """Copies and pickles are made without `balance`, which hangs on a graph."""
        return {**self.__dict__, "balance": None}

    def extra_repr(self) -> str:
        return f"num_experts={len(self.experts)}, top_k={self.top_k}"


def _scaled(y: Tensor, gate: Tensor) -> Tensor:
    return y * gate.to(y.dtype).reshape(-1, *[1] * (y.dim() - 1))


def variation(amounts: Tensor) -> Tensor:
    """The squared coefficient of variation, variance / mean^2, of (E,) amounts; 0 when all are
    alike.
    """
    return amounts.var(correction=0) / amounts.mean().square().clamp_min(1e-10)


def balance_loss(model: nn.Module) -> Tensor | float:
    """The sum over all `ConvExperts` of CV(importance)^2 + CV(load)^2 of the latest training
    forward (Shazeer et al. 2017, eqs. 6 to 11).

    Importance is the sum of an expert's gates over the batch, load the expected number of its
    samples. 0.0 without experts or training forward; calling it forgets what was collected. Not
    together with a `Penalty` of "balance", which takes the same away.
    """
    return sum((_taken(layer) for layer in expert_layers(model) if layer.balance is not None), 0.0)


def expert_layers(model: nn.Module) -> Iterator[nn.Module]:
    """The mixtures of experts inside a model."""
    return (module for module in model.modules() if isinstance(module, ConvExperts))


@penalty("balance", layers=expert_layers, of="mixtures of experts (model.options.experts)")
def _balance(layer: nn.Module, output: Tensor) -> Tensor:
    return _taken(layer)


def _taken(layer: nn.Module) -> Tensor:
    taken, layer.balance = layer.balance, None
    return taken

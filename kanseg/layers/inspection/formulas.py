"""Formulas in place of learned functions: y = c f(a x + b) + d with a known function f."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kanseg.bases.base import aligned, at_least_float32, without_autocast
from kanseg.layers.activation import KANActivation

LARGEST_EXPONENT = 30.0  # exp of larger arguments is not needed, and would overflow
LARGEST_INPUT = 65504.0  # of steep formulas without a range; the largest number of float16


@dataclass(frozen=True)
class Family:
    """A known function f of formulas c f(a x + b) + d.

    Args:
        value: f.
        text: f as text, with {} for its argument.
        cost: of formulas of equal quality the one of the lowest cost is the simplest.
        signs: signs of a that give different functions.
        has_scale: whether |a| matters, and does not only change c.
        has_shift: whether b matters, and does not only change c and d.
        is_steep: whether f grows faster than its argument. Through several layers, inputs beyond
            those of the fit would become huge; there such a formula keeps its last value.
    """

    value: Callable[[Tensor], Tensor]
    text: str
    cost: int
    signs: tuple[int, ...] = (1,)
    has_scale: bool = True
    has_shift: bool = True
    is_steep: bool = False


FAMILIES: dict[str, Family] = {
    "constant": Family(torch.zeros_like, "0", 0, has_scale=False, has_shift=False),
    "linear": Family(lambda t: t, "{}", 1, has_scale=False, has_shift=False),
    "relu": Family(torch.relu, "relu({})", 2, signs=(1, -1), has_scale=False),
    "abs": Family(torch.abs, "|{}|", 2, has_scale=False),
    "quadratic": Family(torch.square, "({})^2", 2, has_scale=False, is_steep=True),
    "silu": Family(nn.functional.silu, "silu({})", 3, signs=(1, -1)),
    "tanh": Family(torch.tanh, "tanh({})", 3),
    "exp": Family(
        lambda t: torch.exp(t.clamp(max=LARGEST_EXPONENT)),
        "exp({})",
        3,
        signs=(1, -1),
        has_shift=False,
        is_steep=True,
    ),
    "gaussian": Family(lambda t: torch.exp(-t * t), "exp(-({})^2)", 3),
    "sin": Family(torch.sin, "sin({})", 4),
}


class FormulaActivation(nn.Module):
    """An activation of formulas, phi_c(x) = c_r f_r(a_r x + b_r) + d_r with r the function of
    channel c: (B, C, *S) -> (B, C, *S).

    a and c start at 1, b and d at 0; all four are trained. The inputs of steep families are limited
    to lo and hi (R,), the range that the formulas were fitted on.

    Args:
        families: name in `FAMILIES` of each function, or of the function of each channel; None for
            a function that stays learned.
        learned: the activation whose functions are replaced. It is kept, for the functions that
            stay learned, only if there are any.

    Raises:
        ValueError: an unknown name, or another number of names than there are functions.
    """

    def __init__(self, families: Sequence[str | None], learned: KANActivation):
        super().__init__()
        if len(families) not in (learned.num_activations, learned.channels):
            raise ValueError(
                f"{learned.num_activations} functions of {learned.channels} channels need as many"
                f" formulas, got {len(families)}"
            )
        unknown = [name for name in families if name is not None and name not in FAMILIES]
        if unknown:
            raise ValueError(f"unknown formula {unknown[0]!r} (known: {', '.join(FAMILIES)})")
        self.channels, self.families = learned.channels, tuple(families)
        self.learned = learned if None in families else None
        weight = learned.weight
        for name, value in (("a", 1.0), ("b", 0.0), ("c", 1.0), ("d", 0.0)):
            values = torch.full((len(families),), value, device=weight.device, dtype=weight.dtype)
            self.register_parameter(name, nn.Parameter(values))
        for name, value in (("lo", -LARGEST_INPUT), ("hi", LARGEST_INPUT)):
            self.register_buffer(name, torch.full_like(self.a.detach(), value))
        with torch.device("cpu"):  # the values are needed, also if the network is built on meta
            functions = torch.arange(learned.channels)
            if len(families) < learned.channels:
                functions = learned.weight_rows()
        self._set_index("functions", functions, weight.device)
        self._set_order([families[function] for function in functions.tolist()], weight.device)

    def _set_order(self, names: list[str | None], device: torch.device) -> None:
        """Store which channels each family computes, and how to restore their order; `names` has
        the family of each channel.
        """
        is_learned = torch.tensor([name is None for name in names], device="cpu")
        names = [name or "constant" for name in names]
        is_steep = torch.tensor([FAMILIES[name].is_steep for name in names], device="cpu")
        self.has_steep = bool(is_steep.any())
        self.used = tuple(dict.fromkeys(names))
        self.counts = [names.count(family) for family in self.used]
        by_family = sorted(range(len(names)), key=lambda channel: self.used.index(names[channel]))
        order = torch.tensor(by_family, device="cpu")
        for name, values in (
            ("is_learned", is_learned),
            ("is_steep", is_steep),
            ("order", order),
            ("inverse", order.argsort()),
        ):
            self._set_index(name, values, device)

    def _set_index(self, name: str, values: Tensor, device: torch.device) -> None:
        self.register_buffer(name, values.to(device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> the same shape."""
        with without_autocast(x):
            y = self._formulas(at_least_float32(x)).to(x.dtype)
        if self.learned is None:
            return y
        return torch.where(aligned(self.is_learned, x) > 0, self.learned(x), y)

    def _formulas(self, x: Tensor) -> Tensor:
        parameters = (self.a, self.b, self.c, self.d)
        a, b, c, d = (aligned(values[self.functions], x) for values in parameters)
        if self.has_steep:
            lo, hi = (aligned(limit[self.functions], x) for limit in (self.lo, self.hi))
            x = torch.where(aligned(self.is_steep, x) > 0, x.clamp(lo, hi), x)
        t = a * x + b
        if len(self.used) == 1:
            return c * FAMILIES[self.used[0]].value(t) + d
        parts = t.index_select(1, self.order).split(self.counts, dim=1)
        values = [FAMILIES[name].value(part) for name, part in zip(self.used, parts, strict=True)]
        return c * torch.cat(values, dim=1).index_select(1, self.inverse) + d

    def extra_repr(self) -> str:
        return f"{self.channels}, families={self.families}"


def replace_by_formulas(
    network: nn.Module, formulas: Mapping[str, Sequence[str | None]]
) -> nn.Module:
    """Replace learned activations of a network by formulas, in place.

    Args:
        network: any module.
        formulas: name of a `KANActivation` -> family of each of its functions, None for those that
            stay learned.

    Raises:
        ValueError: a name that is not that of a learned activation, or other formulas than
            `FormulaActivation` takes.
    """
    modules = dict(network.named_modules())
    for name, families in formulas.items():
        learned = modules.get(name)
        if not isinstance(learned, KANActivation):
            raise ValueError(f"formulas: there is no learned activation {name!r} in this network")
        owner, _, attribute = name.rpartition(".")
        setattr(modules[owner], attribute, FormulaActivation(families, learned))
    return network

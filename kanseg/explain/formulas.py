"""Formulas for learned functions: fit known functions to them, and say in words what they do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from math import pi, remainder

import torch
from torch import Tensor, nn

from kanseg.bases.domains import DOMAINS
from kanseg.explain.curves import LayerCurves, function_curves, function_title
from kanseg.layers.activation import KANActivation
from kanseg.layers.inspection.formulas import FAMILIES, LARGEST_INPUT
from kanseg.utils.language import translate
from kanseg.utils.tables import plain_table

THRESHOLD = 0.99  # R^2 from which a formula replaces a function
# A function that varies less than this share of its inputs is a constant.
FLAT = 1e-3
MAX_EDGES = 8  # functions per edge of a layer that are fitted, the strongest
# Search of the scale and the shift of a formula, in standard deviations of the inputs.
SCALES = torch.logspace(-1, 1, 21, dtype=torch.float64)
SHIFTS = torch.linspace(-3, 3, 25, dtype=torch.float64)
ROUNDS = 8  # each searches a third of the range of the one before
STEPS = torch.linspace(-1, 1, 7, dtype=torch.float64)
WIGGLE = 0.05  # share of the range of a function that a turn must have to be named
SMALL = 0.1  # share of its largest magnitude at which a function suppresses its inputs
NEGLIGIBLE = 1e-6  # of the largest coefficient of a sum: what is smaller is rounding
# Largest relative error of a polynomial that is the function exactly, but for rounding.
EXACT = 1e-3
VARIABLES = {"tanh": "tanh(x)", "half_tanh": "tanh(x / 2)", "sigmoid": "sigmoid(x)"}


@dataclass(frozen=True)
class Formula:
    """c f(a x + b) + d, with f of `FAMILIES`.

    Args:
        family: name of f.
        a, b, c, d: its parameters.
        r2: 1 - (mean square of the error) / (variance of the function), over the inputs on data.
        lo, hi: range of these inputs.
    """

    family: str
    a: float
    b: float
    c: float
    d: float
    r2: float
    lo: float = -LARGEST_INPUT
    hi: float = LARGEST_INPUT

    def __str__(self) -> str:
        """The formula with three digits, such as 0.52 silu(1.1 x - 0.2) + 0.03."""
        family = FAMILIES[self.family]
        if self.family == "constant":
            return f"{self.d:.3g}"
        argument = sum_of_terms([(self.a, "x"), (self.b, "")])
        if self.family == "linear":
            return sum_of_terms([(self.c, "x"), (self.d, "")])
        text = family.text.format(argument)
        return sum_of_terms([(self.c, text), (self.d, "")])


@dataclass(frozen=True)
class LayerFormulas:
    """The formulas of a layer; entry i of each list belongs to function i of `rows`.

    Args:
        layer: its name in `network.named_modules()`.
        rows: what each function is: "channel 3", "layer", "in 2 -> out 5 [1, 1]".
        formula: the simplest formula that fits, or else the best one.
        r2: of this formula, see `Formula`.
        exact: the function in powers of t with base, exactly but for rounding; None unless its
            basis are polynomials.
        words: what the function does to the inputs that it gets on the data, translated.
        num_functions: of the layer; of functions per edge `rows` has the strongest only.
        fitted: the formulas as numbers.
    """

    layer: str
    rows: list[str]
    formula: list[str]
    r2: list[float]
    exact: list[str | None]
    words: list[str]
    num_functions: int
    fitted: list[Formula]


def formulas(
    network: nn.Module, batches: Iterable[Tensor], *, threshold: float = THRESHOLD
) -> list[LayerFormulas]:
    """Find a formula for every learned function of a network.

    The network is afterwards as it was. Layers with many functions per edge are fitted for the
    strongest functions only, see `function_curves`.

    Args:
        network: any module with KAN layers.
        batches: images (B, C, H, W) as the network gets them.
        threshold: R^2 from which a simple formula is preferred to one that fits better.
    """
    modules = dict(network.named_modules())
    found = []
    for layer in function_curves(network, batches, max_edges=MAX_EDGES):
        found.append(layer_formulas(layer, modules[layer.layer], threshold=threshold))
    return found


def layer_formulas(
    layer: LayerCurves, module: nn.Module, *, threshold: float = THRESHOLD
) -> LayerFormulas:
    """Find a formula for every curve of a layer.

    Args:
        layer: the curves with the histograms of their inputs.
        module: the layer.
        threshold: as of `formulas`.
    """
    x = layer.curves.x.double()
    functions = _rows(layer.curves.total, len(layer.rows))
    fitted, words = [], []
    for y, counts in zip(functions, layer.counts, strict=True):
        weights = weights_at(x, counts, layer.edges.double())
        fitted.append(fit(x, y, weights, threshold=threshold))
        words.append(describe_shape(x[weights > 0], y[weights > 0]))
    return LayerFormulas(
        layer.layer,
        layer.rows,
        [str(formula) for formula in fitted],
        [formula.r2 for formula in fitted],
        exact_formulas(layer, module),
        words,
        layer.num_functions,
        fitted,
    )


def _rows(values: Tensor, count: int) -> Tensor:
    """Values of functions (R, n) or (1, n) as (count, n)."""
    return values.double().reshape(-1, values.shape[-1]).expand(count, -1)


def weights_at(x: Tensor, counts: Tensor, edges: Tensor) -> Tensor:
    """How often inputs near x (n,) occur, of sum 1: the count of the bin of each x, shared by the x
    in the same bin.

    Args:
        counts: (bins,) of the inputs.
        edges: (bins + 1,) of the bins.
    """
    bins = (torch.bucketize(x, edges) - 1).clamp(0, len(counts) - 1)
    points = torch.bincount(bins, minlength=len(counts))
    weights = (counts.double() / points.clamp_min(1))[bins]
    if weights.sum() == 0:
        weights = torch.ones_like(x)
    return weights / weights.sum()


def fit(x: Tensor, y: Tensor, weights: Tensor, *, threshold: float = THRESHOLD) -> Formula:
    """Fit the simplest formula that reaches a threshold, or else the best one.

    The scale and the shift of the inputs are searched on a grid that becomes finer around the
    optimum, as in pykan's `suggest_symbolic` (Liu et al. 2024, arXiv:2404.19756); c and d follow by
    linear least squares.

    Args:
        x: inputs (n,).
        y: the function there (n,).
        weights: of each input (n,), of sum 1.
        threshold: R^2 that is good enough.
    """
    x, y, weights = x.double(), y.double(), weights.double()
    mean = weights @ x
    std = float((weights @ (x - mean).square()).sqrt())
    average = float(weights @ y)
    spread = float((weights @ (y - average).square()).sqrt())
    lo, hi = float(x[weights > 0].min()), float(x[weights > 0].max())
    if std == 0 or spread <= FLAT * std:
        return Formula("constant", 1.0, 0.0, 0.0, average, 1.0, lo, hi)
    z = (x - mean) / std
    best = Formula("constant", 1.0, 0.0, 0.0, average, 0.0)
    for name, family in sorted(FAMILIES.items(), key=lambda entry: entry[1].cost):
        if best.r2 >= threshold and family.cost > FAMILIES[best.family].cost:
            break
        if family.cost > 0:
            best = max(best, _fit_family(name, z, y, weights), key=lambda each: each.r2)
    a = best.a / std
    return _simplified(replace(best, a=a, b=best.b - a * float(mean), lo=lo, hi=hi))


def _fit_family(name: str, z: Tensor, y: Tensor, weights: Tensor) -> Formula:
    """Fit c f(a z + b) + d for normalized inputs z."""
    if name == "quadratic":
        return _fit_quadratic(z, y, weights)
    family = FAMILIES[name]
    scales = SCALES if family.has_scale else SCALES.new_ones(1)
    scales = torch.cat([sign * scales for sign in family.signs])
    shifts = SHIFTS if family.has_shift else SHIFTS.new_zeros(1)
    scale_step, shift_step = SCALES.log().diff()[0], SHIFTS.diff()[0]
    best = _best_of(name, scales, shifts, z, y, weights)
    for _ in range(ROUNDS):
        scales = torch.tensor([best.a], dtype=torch.float64)
        shifts = torch.tensor([-best.b / best.a], dtype=torch.float64)
        if family.has_scale:
            scales = scales * (STEPS * scale_step).exp()
        if family.has_shift:
            shifts = shifts + STEPS * shift_step
        best = max(best, _best_of(name, scales, shifts, z, y, weights), key=lambda each: each.r2)
        scale_step, shift_step = scale_step / 3, shift_step / 3
    return best


def _fit_quadratic(z: Tensor, y: Tensor, weights: Tensor) -> Formula:
    """Fit c (z - shift)^2 + d by linear least squares; the vertex can lie anywhere."""
    powers, root = z[:, None] ** torch.arange(3), weights.sqrt()[:, None]
    _, linear, square = torch.linalg.lstsq(powers * root, y[:, None] * root).solution[:, 0]
    if square == 0:
        square = linear.new_tensor(torch.finfo(linear.dtype).tiny)
    shift = (-linear / (2 * square)).clamp(-1 / FLAT, 1 / FLAT)
    return _best_of("quadratic", z.new_ones(1), shift[None], z, y, weights)


def _best_of(
    name: str, scales: Tensor, shifts: Tensor, z: Tensor, y: Tensor, weights: Tensor
) -> Formula:
    """The best formula c f(scale (z - shift)) + d of all combinations of scale and shift."""
    scale, shift = (each.flatten() for each in torch.meshgrid(scales, shifts, indexing="ij"))
    values = FAMILIES[name].value(scale[:, None] * (z - shift[:, None]))
    mean, average = values @ weights, weights @ y
    centered, target = values - mean[:, None], y - average
    variance = centered.square() @ weights
    covariance = (centered * target) @ weights
    c = torch.where(variance > 0, covariance / variance.clamp_min(1e-300), 0.0)
    error = (target - c[:, None] * centered).square() @ weights
    r2 = 1 - error / (target.square() @ weights)
    i = int(r2.argmax())
    a, b = float(scale[i]), float(-scale[i] * shift[i])
    return Formula(name, a, b, float(c[i]), float(average - c[i] * mean[i]), float(r2[i]))


def _simplified(formula: Formula) -> Formula:
    """The same formula with a = 1 or -1 where |a| is no part of its shape, and sines with a phase
    from -pi to pi.
    """
    family, size = FAMILIES[formula.family], abs(formula.a)
    if formula.family == "linear":
        c = formula.c * formula.a
        return replace(formula, a=1.0, b=0.0, c=c, d=formula.d + formula.c * formula.b)
    if formula.family == "sin":
        return replace(formula, b=remainder(formula.b, 2 * pi))  # from -pi to pi
    if family.has_scale:
        return formula
    power = 2 if formula.family == "quadratic" else 1
    c = formula.c * size**power
    return replace(formula, a=formula.a / size, b=formula.b / size, c=c)


def sum_of_terms(terms: Sequence[tuple[float, str]]) -> str:
    """A sum of coefficient times factor with three digits: "0.52 t - 0.1", without the terms that
    are 0 or only rounding beside the largest. A factor "" is a constant.
    """
    text = ""
    largest = max(abs(coefficient) for coefficient, _ in terms)
    for coefficient, factor in terms:
        if abs(coefficient) <= NEGLIGIBLE * largest:
            continue
        number = f"{abs(coefficient):.3g}"
        if factor and number == "1":
            number = ""
        sign = " - " if coefficient < 0 else " + "
        if not text:
            sign = sign.strip().replace("+", "")
        text += f"{sign}{number} {factor}".rstrip() if number else f"{sign}{factor}"
    return text or "0"


def exact_formulas(layer: LayerCurves, module: nn.Module) -> list[str | None]:
    """Each function as its base plus a polynomial in t, the mapped input; None unless the functions
    of the basis are polynomials of t.
    """
    basis, curves = module.basis, layer.curves
    if basis.polynomial_degree is None:
        return [None] * len(layer.rows)
    x = curves.x.double()
    t, variable = x, "x"
    if basis.is_pointwise:
        t, variable = DOMAINS[basis.domain](x), VARIABLES.get(basis.domain, "x")
    powers = t[:, None] ** torch.arange(basis.polynomial_degree + 1)
    values = _rows(curves.functions, len(layer.rows))
    solution = torch.linalg.lstsq(powers, values.mT, driver="gelsd").solution
    error = (powers @ solution - values.mT).abs().amax(0)
    is_exact = error <= EXACT * values.abs().amax(1).clamp_min(1e-12)
    name = "t" if variable != "x" else "x"
    bases = _base_terms(layer, module, x)
    texts: list[str | None] = []
    for row, coefficients in enumerate(solution.mT.tolist()):
        terms = [bases[row]]
        for power, coefficient in enumerate(coefficients):
            terms.append((coefficient, ["", name, f"{name}^{power}"][min(power, 2)]))
        where = f", t = {variable}" if name == "t" else ""
        texts.append(sum_of_terms(terms) + where if is_exact[row] else None)
    return texts


def _base_terms(layer: LayerCurves, module: nn.Module, x: Tensor) -> list[tuple[float, str]]:
    """The base part of each function: its factor and the name of the base activation."""
    if layer.curves.base is None:
        return [(0.0, "")] * len(layer.rows)
    is_activation = isinstance(module, KANActivation)
    base = module.base if is_activation else module.base_activation
    name = f"{type(base).__name__.lower()}(x)"
    if isinstance(base, nn.Identity):
        name = "x"
    values = _rows(layer.curves.base, len(layer.rows))
    if is_activation:
        return [(1.0, name)] * len(layer.rows)
    with torch.no_grad():
        activated = base(x.to(torch.float32)).double()
    factors = (values @ activated) / activated.square().sum()
    return [(factor, name) for factor in factors.tolist()]


def _say(rises: bool, part: str, end: str) -> str:
    """Say that a function rises or falls in a part of its inputs: up to `end` ("first"), in the
    "whole" range, or after the turn that was named before ("last").
    """
    rising = {
        "first": translate("rises until {x}", x=end),
        "whole": translate("rises throughout"),
        "last": translate("rises after"),
    }
    falling = {
        "first": translate("falls until {x}", x=end),
        "whole": translate("falls throughout"),
        "last": translate("falls after"),
    }
    return rising[part] if rises else falling[part]


def describe_shape(x: Tensor, y: Tensor) -> str:
    """Say in words how a function y (n,) of ascending inputs x (n,) runs: where it rises and falls,
    and whether it suppresses high or low inputs.
    """
    if len(x) < 2 or float(y.max() - y.min()) <= FLAT * float(x[-1] - x[0]):
        return translate("constant")
    turns = _turns(y, WIGGLE * float(y.max() - y.min()))
    parts = []
    for start, end in zip(turns, turns[1:], strict=False):
        part = "last"
        if end != turns[-1]:
            part = "first"
        elif start == turns[0]:
            part = "whole"
        parts.append(_say(bool(y[end] > y[start]), part, f"{float(x[end]):.2g}"))
    largest = float(y.abs().max())
    quarter = max(1, len(y) // 4)
    if float(y[-quarter:].abs().max()) < SMALL * largest:
        parts.append(translate("high inputs are suppressed"))
    if float(y[:quarter].abs().max()) < SMALL * largest:
        parts.append(translate("low inputs are suppressed"))
    return ", ".join(parts)


def _turns(y: Tensor, tolerance: float) -> list[int]:
    """Indices of the first point, the turning points and the last point of y (n,). Turns by less
    than the tolerance are left out.
    """
    values, turns = y.tolist(), [0]
    low = high = 0  # of the part since the last turn
    direction = 0
    for index, value in enumerate(values):
        low = min(low, index, key=values.__getitem__)
        high = max(high, index, key=values.__getitem__)
        if direction >= 0 and values[high] - value > tolerance:
            if direction > 0:
                turns.append(high)
            direction, low, high = -1, index, index
        elif direction <= 0 and value - values[low] > tolerance:
            if direction < 0:
                turns.append(low)
            direction, low, high = 1, index, index
    turns.append(len(values) - 1)
    return list(dict.fromkeys(turns))


def plain_formulas(found: Sequence[LayerFormulas]) -> list[dict[str, object]]:
    """Formulas as plain JSON: an entry per function."""
    entries = []
    for layer in found:
        for row, name in enumerate(layer.rows):
            entry = {"layer": layer.layer, "function": name, "formula": layer.formula[row]}
            entry |= asdict(layer.fitted[row])
            entries.append(entry | {"exact": layer.exact[row], "words": layer.words[row]})
    return entries


def formula_table(found: Sequence[LayerFormulas]) -> str:
    """The formulas of all functions as a table for the terminal, with their R^2."""
    rows = []
    for layer in found:
        for name, formula, r2 in zip(layer.rows, layer.formula, layer.r2, strict=True):
            rows.append([layer.layer, function_title(name), formula, f"{r2:.4f}"])
        hidden = layer.num_functions - len(layer.rows)
        if hidden:
            rows.append([layer.layer, translate("{count} weaker functions", count=hidden), "", ""])
    header = [translate("layer"), translate("function"), translate("formula"), translate("R^2")]
    return plain_table(header, rows, text_columns=3)


def words_table(layer: LayerFormulas) -> str:
    """What the functions of a layer do, in words and as exact formulas if there are any."""
    rows = []
    for name, words, exact in zip(layer.rows, layer.words, layer.exact, strict=True):
        rows.append([function_title(name), words, exact or ""])
    header = [
        translate("function"),
        translate("over the inputs on the images"),
        translate("exactly"),
    ]
    return plain_table(header, rows, text_columns=3)

"""Figures of the functions of a network: small multiples of curves with histograms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanseg.explain.curves import LayerCurves, function_title
from kanseg.explain.response import InputResponse
from kanseg.visualization.curves import COLORS
from kanseg.visualization.figures import save_figure
from kanseg.visualization.fonts import figure_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 6
PANEL = (2.4, 2.0)  # inches
MAX_PANELS = 24
HISTOGRAM = 0.25  # of the height of a panel


def draw_curves_grid(
    layer: LayerCurves, path: str | Path | None = None, *, max_panels: int = MAX_PANELS
) -> Figure:
    """Draw the functions of a layer as small multiples, the one that contributes most first: phi(x)
    in black, its base dashed, its basis functions in color, and the histogram of the inputs
    beneath.

    Args:
        layer: one of `function_curves`.
        path: PNG file to write, if any.
        max_panels: number of functions.

    Returns:
        The figure; `figure.savefig(path, format="svg")` writes another format.
    """
    from matplotlib.figure import Figure

    ranking = layer.contribution.argsort(descending=True)[:max_panels].tolist()
    columns = min(COLUMNS, len(ranking))
    rows = -(-len(ranking) // columns)
    size = (max(PANEL[0] * columns, 2 * PANEL[0]), PANEL[1] * rows + 1)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).flatten()
    for axis, row in zip(panels, ranking, strict=False):
        _draw_function(axis, layer, row)
    _hide_unused(panels, len(ranking), columns)
    figure.suptitle(
        figure_text(
            "{layer}: {count} of {total} functions, by their variance on the images",
            layer=layer.layer,
            count=len(ranking),
            total=layer.num_functions,
        ),
        fontsize=10,
    )
    label = figure_text("input")
    if layer.normalized:
        label = figure_text("normalized input")
    figure.supxlabel(label, fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=len(labels), fontsize=8)
    if path is not None:
        save_figure(figure, Path(path))
    return figure


def _hide_unused(panels: Sequence[Any], used: int, columns: int) -> None:
    """Hide the panels behind the last one that is used; those above have the numbers of x."""
    for axis in panels[used:]:
        axis.set_visible(False)
    for axis in panels[max(0, used - columns) : used]:
        axis.tick_params(labelbottom=True)


def _draw_function(axis: Any, layer: LayerCurves, row: int) -> None:
    x, total, base, functions = layer.curves
    counts = layer.counts[row] / layer.counts[row].max().clamp_min(1)
    # in the data of the x axis, and in the height of the panel
    axis.stairs(
        counts * HISTOGRAM,
        layer.edges,
        fill=True,
        color="0.85",
        transform=axis.get_xaxis_transform(),
        label=figure_text("inputs"),
    )
    if base is not None:
        label = figure_text("base")
        axis.plot(x, base[row], color=COLORS[1], linestyle="--", linewidth=1, label=label)
        label = figure_text("functions")
        axis.plot(x, functions[row], color=COLORS[0], linewidth=1, label=label)
    axis.plot(x, total[row], color="black", linewidth=1.5, label="φ(x)")
    variance = f"{layer.contribution[row]:.2g}"
    title = figure_text("variance {variance}", variance=variance)
    axis.set_title(f"{function_title(layer.rows[row], figure_text)}\n{title}", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.margins(x=0)
    # free space for the histogram beneath the curves
    lo, hi = axis.get_ylim()
    axis.set_ylim(lo - HISTOGRAM * (hi - lo), hi)


def draw_response(response: InputResponse, path: str | Path | None = None) -> Figure:
    """Draw the response of the first layer to the intensity of an image: a panel for all bands and
    one for every band, with a line per output channel.

    Args:
        response: of `input_response`.
        path: PNG file to write, if any.
    """
    from matplotlib.figure import Figure

    columns = min(4, len(response.bands))
    rows = -(-len(response.bands) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.8 * rows + 0.8), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axis, band, lines in zip(panels, response.bands, response.response, strict=False):
        for number, line in enumerate(lines):
            color = COLORS[number % len(COLORS)]
            axis.plot(response.values, line, color=color, linewidth=1, label=str(number))
        axis.set_title(_band_title(band), fontsize=9)
        axis.tick_params(labelsize=7)
        axis.margins(x=0)
        axis.grid(alpha=0.3)
    _hide_unused(panels, len(response.bands), columns)
    title = figure_text("{layer} for uniform images", layer=response.layer)
    if not response.on_pixels:
        title = figure_text(
            "{layer}, with the layers before its functions, for uniform images",
            layer=response.layer,
        )
    figure.suptitle(title, fontsize=10)
    figure.supxlabel(figure_text("value in the image"), fontsize=9)
    if response.response.shape[1] <= len(COLORS):
        title = figure_text("output channel")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right", title=title, fontsize=7)
    if path is not None:
        save_figure(figure, Path(path))
    return figure


def _band_title(name: str) -> str:
    """The name of a band for a figure."""
    titles = {
        "intensity": figure_text("intensity"),
        "all bands": figure_text("all bands"),
        "red": figure_text("red"),
        "green": figure_text("green"),
        "blue": figure_text("blue"),
    }
    _, _, number = name.partition(" ")
    return titles.get(name) or figure_text("band {number}", number=number)

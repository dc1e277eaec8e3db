from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from kanseg.data import Preprocess
from kanseg.explain.curves import function_curves
from kanseg.explain.figures import draw_curves_grid, draw_response
from kanseg.explain.response import input_response
from kanseg.layers import KANActivation, KANConv2d


def layer_curves(layer, scale=1.0):
    torch.manual_seed(0)
    x = torch.randn(1, 3, 16, 16) * torch.tensor([1.0, 3.0, 2.0])[:, None, None] * scale
    (curves,) = function_curves(nn.Sequential(layer), [x])
    return curves


def visible(figure):
    return [axis for axis in figure.axes if axis.get_visible()]


def test_functions_are_drawn_by_contribution_with_base_functions_and_histogram(tmp_path):
    curves = layer_curves(KANActivation(3))
    figure = draw_curves_grid(curves, tmp_path / "curves.png")
    panels = visible(figure)
    assert [panel.get_title().splitlines()[0] for panel in panels] == [
        "channel 1",
        "channel 2",
        "channel 0",
    ]
    _, labels = panels[0].get_legend_handles_labels()
    assert labels == ["inputs", "base", "functions", "φ(x)"]
    total = panels[0].lines[-1]
    np.testing.assert_array_equal(total.get_ydata(), curves.curves.total[1])
    np.testing.assert_array_equal(total.get_xdata(), curves.curves.x)
    assert np.asarray(Image.open(tmp_path / "curves.png")).std() > 1


def test_a_large_layer_says_how_many_functions_are_drawn():
    curves = layer_curves(KANConv2d(3, 8, 3, basis="bspline", base_activation=None))
    figure = draw_curves_grid(curves, max_panels=5)
    assert len(visible(figure)) == 5
    assert "5 of 216" in figure.get_suptitle()
    _, labels = visible(figure)[0].get_legend_handles_labels()
    assert labels == ["inputs", "φ(x)"]


def test_the_lowest_panel_of_each_column_has_the_numbers_of_its_inputs():
    figure = draw_curves_grid(layer_curves(KANConv2d(3, 8, 3, basis="gram")), max_panels=8)
    numbered = [axis.xaxis.get_tick_params()["labelbottom"] for axis in visible(figure)]
    assert numbered == [False] * 2 + [True] * 6


def test_normalized_inputs_are_named():
    figure = draw_curves_grid(layer_curves(KANActivation(3, basis="rbf", domain="instance_norm")))
    assert figure.get_supxlabel() == "normalized input"
    assert draw_curves_grid(layer_curves(KANActivation(3))).get_supxlabel() == "input"


def test_a_figure_can_be_saved_as_svg(tmp_path):
    figure = draw_curves_grid(layer_curves(KANActivation(3)))
    figure.savefig(tmp_path / "curves.svg")
    assert "<svg" in Path(tmp_path / "curves.svg").read_text()


def test_the_response_has_a_panel_for_every_band(tmp_path):
    network = nn.Sequential(KANConv2d(3, 4, 3, basis="bspline"))
    response = input_response(network, Preprocess(channels=3), size=(8, 8))
    figure = draw_response(response, tmp_path / "response.png")
    panels = visible(figure)
    assert [panel.get_title() for panel in panels] == ["all bands", "red", "green", "blue"]
    for band, panel in enumerate(panels):
        assert len(panel.lines) == 4
        np.testing.assert_array_equal(panel.lines[3].get_ydata(), response.response[band, 3])
    assert (tmp_path / "response.png").exists()

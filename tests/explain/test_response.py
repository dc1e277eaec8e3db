import numpy as np
import pytest
import torch
from torch import nn

import kanseg
from kanseg.data import Preprocess
from kanseg.explain.response import input_response
from kanseg.utils.errors import InputError

PREPROCESS = Preprocess(channels=3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.1), gamma=0.8)
SIZE = (16, 16)


def unet(**options):
    torch.manual_seed(0)
    network = kanseg.create_model("unet", width=4, depth=2, **options).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize(
    ("options", "on_pixels"),
    [
        ({"share": "edge", "basis": "bspline"}, True),
        ({"basis": "gram", "position": "before_conv"}, True),
        ({"basis": "gram"}, False),
    ],
)
@torch.no_grad()
def test_the_response_is_what_the_layer_returns_for_an_image_of_this_value(options, on_pixels):
    network = unet(**options)
    found = input_response(network, PREPROCESS, size=SIZE)
    assert found.on_pixels is on_pixels
    assert found.bands == ["all bands", "red", "green", "blue"]
    assert found.values[[0, -1]].tolist() == [0, 255]
    layer = network.get_submodule(found.layer)
    outputs = []
    hook = layer.register_forward_hook(lambda *arguments: outputs.append(arguments[-1]))
    value = int(found.values[32].round())
    image = np.full((*SIZE, 3), value, np.uint8)
    network(PREPROCESS(image).unsqueeze(0))
    network(PREPROCESS(image).unsqueeze(0) * torch.tensor([0.0, 1.0, 0.0])[:, None, None])
    hook.remove()
    for band, output in ((0, outputs[0]), (2, outputs[1])):
        expected = output[0, :, 8, 8]
        between = np.interp(value, found.values, np.arange(65))
        low = found.response[band, :, int(between)]
        high = found.response[band, :, min(int(between) + 1, 64)]
        close = torch.lerp(low, high, float(between % 1))
        torch.testing.assert_close(close, expected, atol=5e-3, rtol=5e-3)


def test_a_single_band_of_16_bits():
    network = unet(in_channels=1)
    found = input_response(network, Preprocess(channels=1), max_value=65535, size=SIZE)
    assert found.bands == ["intensity"]
    assert found.values[-1] == 65535
    assert found.response.shape == (1, 4, 65)
    eight_bits = input_response(network, Preprocess(channels=1), size=SIZE)
    torch.testing.assert_close(found.response, eight_bits.response)


def test_images_of_floats_are_shown_in_their_units():
    preprocess = Preprocess(channels=2, mean=(100.0, 200.0), std=(10.0, 20.0), floats=True)
    found = input_response(unet(in_channels=2), preprocess, size=SIZE)
    assert found.values[[0, -1]].tolist() == [70, 260]
    assert found.bands == ["all bands", "band 1", "band 2"]


def test_a_network_of_linear_layers_reads_pixels():
    network = nn.Sequential(nn.Flatten(), kanseg.kan([3 * 8 * 8, 5, 2]))
    found = input_response(network, PREPROCESS, size=(8, 8))
    assert found.on_pixels
    assert found.response.shape == (4, 5, 65)


def test_the_note_says_whether_the_functions_read_pixels():
    assert (
        "read the pixels"
        in input_response(unet(position="before_conv"), PREPROCESS, size=SIZE).note
    )
    assert "do not read pixels" in input_response(unet(), PREPROCESS, size=SIZE).note


def test_a_plain_network_has_no_functions():
    with pytest.raises(InputError, match="functions"):
        input_response(unet(basis="none"), PREPROCESS)


def test_a_network_of_one_size_gets_images_of_it():
    network = kanseg.create_model("kan", 3, 2, image_size=[8, 12], hidden=[5])
    sizes = set()
    network.register_forward_pre_hook(lambda _, arguments: sizes.add(arguments[0].shape[2:]))
    assert input_response(network, PREPROCESS).response.shape == (4, 5, 65)
    assert sizes == {(8, 12)}

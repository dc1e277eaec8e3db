"""External encoders give the same features in an exported graph, whatever size was traced."""

import pytest
import torch
from torch import nn
from torch.export import Dim

from kanseg.encoders import ExternalEncoder
from kanseg.encoders.external import external_encoder

SIZES = [(63, 61), (32, 32), (33, 100)]


class Halvings(nn.Module):
    """(B, 3, H, W) -> features of strides 1, 2 and 4."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.second = nn.Conv2d(4, 5, 3, stride=2, padding=1)

    def forward(self, x):
        half = self.first(x)
        return [x, half, self.second(half)]


class Flat(nn.Module):
    """The features behind the image, as one tensor."""

    def __init__(self, encoder=None):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = encoder or ExternalEncoder(
            Halvings(), indices=[1, 2], channels=[4, 5], in_channels=3
        )

    def forward(self, x):
        return torch.cat([feature.flatten(1) for feature in self.encoder(x)[1:]], dim=1)


def exported(network, size):
    """The graph, traced with images of this size."""
    sizes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    return torch.export.export(network, (torch.rand(2, 3, *size),), dynamic_shapes=(sizes,))


@pytest.mark.parametrize("traced", [(64, 96), (67, 131)])
def test_a_graph_pads_and_crops_images_of_any_size(traced):
    network = Flat().eval()
    graph = exported(network, traced).module()
    for size in SIZES:
        x = torch.rand(1, 3, *size)
        torch.testing.assert_close(graph(x), network(x), rtol=0, atol=1e-6)


def test_a_graph_without_one_of_the_features_takes_any_batch_and_size():
    """Vision transformers have no feature of half the size."""
    encoder = ExternalEncoder(Halvings(), indices=[None, 2], channels=[0, 5], in_channels=3)
    network = Flat(encoder).eval()
    graph = exported(network, (64, 96)).module()
    x = torch.rand(3, 3, 63, 61)
    torch.testing.assert_close(graph(x), network(x), rtol=0, atol=1e-6)


def vision_transformer(patch_size):
    return external_encoder("timm-test_vit", depth=4, patch_size=patch_size)


@pytest.mark.slow
@pytest.mark.parametrize("patch_size", [None, 16, 14])
def test_an_onnx_file_pads_and_crops_images_of_any_size(tmp_path, patch_size):
    """Also of a vision transformer, whose position embeddings are interpolated in the graph."""
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    network = Flat(patch_size and vision_transformer(patch_size)).eval()
    program = torch.onnx.export(exported(network, (64, 96)), dynamo=True, verbose=False)
    program.save(tmp_path / "x.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx")
    for size in SIZES:
        x = torch.rand(1, 3, *size)
        (result,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(result), network(x), rtol=1e-5, atol=1e-5)

"""What leaves PyTorch computes the same, for any batch and any size."""

import pytest
import torch
from torch.export import Dim

import kanseg

FAST = ["simple_kan_4"]
SLOW = [
    "unet",
    "ukanet_18",
    "ukan",
    "u2kanet_small",
    "densekanet_tiny",
    "reskanet_18",
    "reskanet_50",
    "vggkan11",
]
MODELS = [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
DYNAMIC = ({0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)


def small(name):
    return kanseg.create_model(name, width=16 if name == "ukan" else 4).eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_exported_program_takes_any_batch_and_size(name):
    net, x = small(name), torch.randn(3, 3, 61, 83)
    program = torch.export.export(net, (torch.randn(2, 3, 64, 96),), dynamic_shapes=DYNAMIC)
    torch.testing.assert_close(program.module()(x), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.slow
def test_onnx_takes_any_batch_and_size(name, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    net, x = small(name), torch.randn(3, 3, 61, 83)
    path = tmp_path / "net.onnx"
    torch.onnx.export(
        net, (torch.randn(2, 3, 64, 96),), path, dynamo=True, verbose=False, dynamic_shapes=DYNAMIC
    )
    session = runtime.InferenceSession(path)
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), net(x).detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_compiler_sees_one_graph(name):
    """Without a C++ compiler: the graph that it would be given."""
    net, x = small(name), torch.randn(2, 3, 61, 83)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager", dynamic=True)
    torch.testing.assert_close(compiled(x), net(x), rtol=1e-4, atol=1e-5)

import json
import sys
from pathlib import Path

import pytest
import torch
from commands import kanseg_command
from torch import nn

import kanseg
from kanseg.cli.profile import main
from kanseg.layers import KANConv2d
from kanseg.models.operations import num_parameters, saved_bytes
from kanseg.models.profile import PARTS
from kanseg.utils.errors import InputError

TOOL = Path(__file__).parents[2] / "tools" / "profile_model.py"


def row(found, name):
    return next(each for each in found.rows if each.name == name)


def everything(model):
    return [*model.parameters(), *model.buffers()]


def test_parts_of_the_parameters_by_hand():
    layer = KANConv2d(
        6, 4, 3, padding=1, basis="gram", degree=3, inner_channels=2, activation="prelu"
    )
    parts = kanseg.profile(layer, (6, 8, 8), runs=0).total.parameters
    assert parts == {
        "base": 9 * 6 * 4,
        "basis": 6 * 2 + 9 * 2 * 4 * 2 + 2 * 4,
        "norm": 8,
        "other": 1,
    }


@pytest.mark.parametrize(("position", "channels"), [("after_norm", 4), ("before_conv", 6)])
@pytest.mark.parametrize("base", ["silu", "prelu"])
def test_shared_functions_are_parameters_of_the_basis(position, channels, base):
    which = "activation" if position == "after_norm" else "base_activation"
    options = {"basis": "rbf", "grid_size": 5, "share": "channel", "position": position}
    layer = KANConv2d(6, 4, 1, norm=None, **options, **{which: base})
    parts = kanseg.profile(layer, (6, 8, 8), runs=0).total.parameters
    slopes = int(base == "prelu")
    own = (
        {"base": slopes, "other": 0} if position == "before_conv" else {"base": 0, "other": slopes}
    )
    assert parts == {
        "base": 6 * 4 + own["base"],
        "basis": channels * 5,
        "norm": 0,
        "other": own["other"],
    }


@pytest.mark.parametrize(
    "name",
    [
        "unet",
        "ukanet_50",
        "u2kanet_small",
        "ukan",
        "densekanet_tiny",
        "reskanet_18",
        "vggkan11",
        "simple_kan_8",
    ],
)
@pytest.mark.parametrize("basis", ["gram", "wavelet", "none"])
@pytest.mark.slow_except("gram", "unet")
def test_parts_add_up_to_all_parameters(name, basis):
    model = kanseg.create_model(name, basis=basis, width=2)
    found = kanseg.profile(model, (3, 32, 32), runs=0, training=False)
    assert (
        sum(found.total.parameters[part] for part in PARTS)
        == num_parameters(model)
        == found.to_dict()["total"]["num_parameters"]
    )
    assert (found.total.parameters["basis"] == 0) == (basis == "none")
    assert found.total.parameters["base"] > 0


def test_rows_add_up_to_the_memory_of_the_whole():
    model = kanseg.create_model("unet", width=4, depth=2)
    x = torch.randn(2, 3, 17, 20)
    found = kanseg.profile(model, (2, 3, 17, 20), runs=0)
    assert found.total.saved_bytes == saved_bytes(lambda: model(x), everything(model))
    merged = row(found, "decoder.blocks.1.0")
    assert (
        merged.saved_bytes >= 12 * 2 * 17 * 20 * 4
    )  # the concatenation that it reads, among others
    assert merged.output == (2, 4, 17, 20)


def test_a_kan_layer_is_measured_as_it_runs():
    """A hook within would make it take another way, which keeps the values of all functions."""
    layer = KANConv2d(4, 4, 3, padding=1, basis="bspline")
    found = kanseg.profile(layer, (1, 4, 16, 16), runs=0)
    assert [each.name for each in found.rows] == [""]
    x_bytes = 4 * 16 * 16 * 4
    assert (
        found.total.saved_bytes == 3 * x_bytes + 2 * 4 * 4
    )  # input, the norm's and the activation's; mean and deviation of the norm


def test_time_is_counted_once(monkeypatch):
    ticks = iter(range(1000))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))
    found = kanseg.profile(model, 4, runs=3)
    assert {each.name: each.milliseconds for each in found.rows} == {
        "": 3e3,
        "0": 1e3,
        "1": 3e3,
        "1.0": 1e3,
        "1.1": 1e3,
    }


class External(nn.Module):
    """Weights used outside a module's own call, a layer used twice, several outputs."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.linear = nn.Linear(8, 8)
        self.bias = nn.Parameter(torch.zeros(8))

    def forward(self, x):
        x = self.linear(self.linear(x.flatten(2).transpose(1, 2)))
        return {"tokens": self.attention(x, x, x)[0] @ self.linear.weight}, [x + self.bias]


def test_networks_of_other_origin():
    found = kanseg.profile(External(), (8, 3, 4), runs=1)
    tokens = 12
    assert row(found, "linear").linear == 2 * tokens * 64
    assert row(found, "").linear == tokens * 64
    assert (
        row(found, "attention").linear + row(found, "attention.out_proj").linear
        == 4 * tokens * 64 + 2 * tokens**2 * 8
    )
    assert found.total.parameters == {
        "base": 0,
        "basis": 0,
        "norm": 0,
        "other": num_parameters(External()),
    }


def test_a_network_of_torchvision():
    from torchvision.models import resnet18

    model = resnet18(num_classes=5).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = kanseg.profile(model, (2, 3, 64, 64), runs=0)
    assert found.total.num_parameters == num_parameters(model)
    assert found.total.parameters["norm"] == sum(
        p.numel() for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()
    )
    assert row(found, "layer1.0.conv1").linear == 2 * 16 * 16 * 9 * 64 * 64
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not any(m.training or m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_table_and_its_figures():
    found = kanseg.profile(kanseg.kan([6, 5, 3], basis="rbf", grid_size=4), [7, 6])
    lines = str(found).splitlines()
    assert lines[0].startswith("| layer")
    assert [line.split("|")[1].strip() for line in lines[2:6]] == [
        "layers.0",
        "layers.1",
        "(all else)",
        "total",
    ]
    figures = json.loads(json.dumps(found.to_dict()))
    assert figures["input_size"] == [7, 6]
    assert (
        figures["total"]["linear"]
        == sum(layer["linear"] for layer in figures["layers"])
        == 7 * 5 * (6 * 5 + 5 * 3)
    )
    assert (
        figures["total"]["multiply_adds"]
        == figures["total"]["linear"] + figures["total"]["functions"]
    )
    assert figures["total"]["milliseconds"] > 0


def test_sizes_and_norms_that_cannot_be():
    for size in ([], [3, 0, 4], "3", [3.0]):
        with pytest.raises(ValueError, match="input_size must be"):
            kanseg.profile(nn.Identity(), size)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3))
    with pytest.raises(ValueError, match="a larger batch"):
        kanseg.profile(model, (3, 4, 4))
    assert kanseg.profile(model, (3, 4, 4), training=False).total.saved_bytes == 0
    assert not model._forward_hooks


def test_the_command(tmp_path):
    small = ["--input", "3x16x16", "--options", '{"width": 2, "depth": 1}', "--runs", "1"]
    done = kanseg_command("profile", "--name", "unet", *small, "--json", tmp_path / "f.json")
    assert done.returncode == 0, done.stderr
    assert "| segmentation_head" in done.stdout
    assert json.loads((tmp_path / "f.json").read_text())["total"][
        "num_parameters"
    ] == num_parameters(kanseg.create_model("unet", width=2, depth=1))
    done = kanseg_command("profile", "--name", "unett", *small)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "did you mean 'unet'" in done.stderr


def test_the_command_takes_a_checkpoint_or_a_config(tmp_path):
    model = kanseg.create_model("unet", 1, 3, width=2, depth=1)
    model.save_pretrained(tmp_path / "net")
    config = "model: {name: kan, options: {hidden: [3]}}\ndata: {channels: 1, resize: [8, 9]}\n"
    (tmp_path / "config.yaml").write_text(config)
    figures = tmp_path / "figures.json"
    common = ["--runs", "0", "--json", str(figures)]
    main(["--checkpoint", str(tmp_path / "net"), *common])
    found = json.loads(figures.read_text())
    assert found["input_size"] == [1, 1, 256, 256]
    assert found["total"]["num_parameters"] == num_parameters(model)
    main(["--config", str(tmp_path / "config.yaml"), *common])
    assert json.loads(figures.read_text())["input_size"] == [1, 1, 8, 9]
    for words in ([], ["--name", "unet", "--checkpoint", str(tmp_path / "net")]):
        with pytest.raises(InputError, match="--checkpoint"):
            main(words)


def test_no_tool_hides_a_module_of_python():
    """A tool called profile.py would be imported by cProfile, and so by torch.compile, in every
    tool beside it.
    """
    assert not {tool.stem for tool in TOOL.parent.glob("*.py")} & sys.stdlib_module_names


@pytest.mark.gpu
def test_on_a_gpu():
    model = kanseg.create_model("unet", width=4, depth=1)
    here = kanseg.profile(model, (3, 32, 32), runs=0)
    there = kanseg.profile(model.cuda(), (3, 32, 32), runs=2)
    assert there.device.startswith("cuda")
    assert there.total.multiply_adds == here.total.multiply_adds
    assert there.total.milliseconds > 0

import pytest
import torch
from torch import nn

from kanseg.training import compiling
from kanseg.training.compiling import compile_networks, uncompile_networks
from kanseg.training.run import train
from kanseg.training.run_folder.logging import read_log
from kanseg.utils.errors import InputError

CPU = torch.device("cpu")


def test_a_compiled_network_keeps_its_names_and_its_values(monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    names, x = list(model.state_dict()), torch.randn(2, 3, 8, 8)
    expected = model(x)
    compile_networks(model, device=CPU)
    assert model._compiled_call_impl is not None
    torch.testing.assert_close(model(x), expected)
    assert list(model.state_dict()) == names
    uncompile_networks(model)
    assert torch.equal(model(x), expected)


@pytest.mark.slow
def test_a_compiled_run_trains_like_one_that_is_not(config, tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    config.training.epochs = 1
    config.training.penalty = {"weights_l1": 0.1, "activations_l2": 0.1}
    results = [train(config)]
    losses = [[e["loss"] for e in read_log(tmp_path / "run" / "log.jsonl") if "loss" in e]]
    config.training.compile = True
    results.append(train(config, overwrite=True))
    losses.append([e["loss"] for e in read_log(tmp_path / "run" / "log.jsonl") if "loss" in e])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert results[0]["multiply_adds"] == results[1]["multiply_adds"]
    config.training.compile, config.training.epochs = False, 2
    train(config, resume=True)  # the checkpoint is an ordinary one


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_traced_in_a_compiled_network_too(config, monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    config.training.lr, config.training.clip, config.training.compile, config.training.epochs = (
        1e30,
        None,
        True,
        6,
    )
    with pytest.raises(InputError, match=r"first layer with such an output: encoder\.stages"):
        train(config)


@pytest.mark.parametrize("compiler", [None, "no-such-compiler"])
def test_without_a_compiler_it_is_reported_before_anything_is_written(
    config, tmp_path, monkeypatch, compiler
):
    monkeypatch.setenv("CXX", compiler or "")
    monkeypatch.setenv("PATH", str(tmp_path))
    config.training.compile = True
    with pytest.raises(InputError, match=r"training\.compile needs a C\+\+ compiler on the CPU"):
        train(config)
    assert not (tmp_path / "run").exists()


def test_a_compiler_that_fails_is_reported_in_one_line(monkeypatch):
    monkeypatch.setattr(
        compiling,
        "BACKEND",
        lambda graph, inputs: (_ for _ in ()).throw(RuntimeError("no\nheaders")),
    )
    with pytest.raises(InputError, match="torch.compile does not work here .*no headers") as caught:
        compile_networks(nn.Linear(1, 1), device=CPU)
    assert "\n" not in str(caught.value)

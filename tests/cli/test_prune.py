"""The command `kanseg prune`: checkpoints, scores, figures; what is finished is not run again."""

import json
from dataclasses import replace

import numpy as np
import pytest
from commands import kanseg_command
from safetensors.torch import load_file

import kanseg
from conftest import write_segmenter
from kanseg.config import Config
from kanseg.explain.pruning.curve import Request, prune_curve
from kanseg.inference.checkpoint import read_description, save_checkpoint
from kanseg.training.run import train
from kanseg.utils.errors import InputError
from kanseg.utils.reading import read_text

pytest.importorskip("torch_pruning")


@pytest.fixture
def pruned(config, tmp_path):
    """A trained network, pruned and fine-tuned for an epoch; and the words of the command."""
    config.model.options = {"width": 4, "depth": 1}
    config.training.epochs, config.training.panels = 1, 0
    train(config)
    words = ["--checkpoint", tmp_path / "run", "--output", tmp_path / "pruned", "--keep", 0.5]
    words += ["--criterion", "contribution", "--finetune_epochs", 1, "--images", 2]
    done = kanseg_command("prune", *words)
    assert done.returncode == 0, done.stderr
    return tmp_path / "pruned", words


@pytest.mark.slow
def test_a_checkpoint_is_pruned_finetuned_and_used_like_any_other(pruned, tmp_path, folder):
    output, words = pruned
    original, point = json.loads((output / "curve.json").read_text())["points"]
    assert 0.4 < point["parameters"] / original["parameters"] <= 0.5
    assert point["multiply_adds"] < original["multiply_adds"]
    assert 0 <= point["score"] <= 1 and 0 <= point["finetuned"] <= 1
    assert (output / "curve.png").is_file() and "contribution" in (output / "curve.md").read_text()

    checkpoint = output / "contribution_0.5" / "pruned"
    finetuned = output / "contribution_0.5" / "finetuned"
    shapes = {name: value.shape for name, value in _weights(checkpoint).items()}
    assert {name: value.shape for name, value in _weights(finetuned / "best").items()} == shapes
    network = kanseg.from_pretrained(checkpoint)
    assert sum(p.numel() for p in network.parameters()) == point["parameters"]

    images = tmp_path / "set" / "images"
    done = kanseg_command(
        "predict", "--checkpoint", checkpoint, "--input", images, "--output", tmp_path / "masks"
    )
    assert done.returncode == 0, done.stderr
    config = Config.from_yaml(read_text(finetuned / "config.yaml"))
    config.training.epochs = 2
    train(config, resume=True)
    assert {name: value.shape for name, value in _weights(finetuned / "best").items()} == shapes

    changed = (checkpoint / "model.safetensors").stat().st_mtime_ns
    done = kanseg_command("prune", *words)
    assert done.returncode == 0 and "finished already" in done.stdout
    assert (checkpoint / "model.safetensors").stat().st_mtime_ns == changed


@pytest.mark.slow
def test_a_pruned_network_is_exported(pruned, tmp_path):
    output, _ = pruned
    checkpoint, target = output / "contribution_0.5" / "pruned", tmp_path / "pruned.onnx"
    done = kanseg_command("export", "--checkpoint", checkpoint, "--output", target)
    assert done.returncode == 0, done.stderr
    image = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)
    exported, expected = (kanseg.load(each).probabilities(image) for each in (target, checkpoint))
    np.testing.assert_allclose(exported, expected, atol=1e-4)


def _weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("option", [["--keep", "1.5"], ["--finetune_epochs", "-1"]])
def test_options_out_of_range_are_refused(option, tmp_path):
    words = ["--checkpoint", tmp_path, "--output", tmp_path / "out", *option]
    done = kanseg_command("prune", *words)
    assert done.returncode == 2 and option[0] in done.stderr


def test_a_network_that_was_refined_is_pruned_and_finetuned(config, tmp_path):
    """The steps of its training are over: they do not belong to the epochs of the fine-tuning."""
    config.model.basis, config.model.options = "bspline", {"width": 4, "depth": 1, "grid_size": 2}
    config.training.epochs = 2
    config.training.refine = {2: {"grid_size": 4}}
    train(config)
    request = Request(
        tmp_path / "run" / "last",
        tmp_path / "pruned",
        [0.6],
        criteria=["magnitude"],
        finetune_epochs=1,
        num_images=2,
    )
    assert prune_curve(request, log=lambda line: None)[1].finetuned is not None
    # Results of weights that have been replaced since are not taken for those of the new ones.
    train(replace(config, seed=1), overwrite=True)
    lines = []
    prune_curve(request, log=lines.append)
    assert not any("finished already" in line for line in lines)
    assert not any("resumed" in line for line in lines)


def test_a_network_with_formulas_is_not_pruned(tmp_path):
    folder = write_segmenter(tmp_path / "net")
    description = read_description(folder)
    description["model"]["formulas"] = {}
    network = kanseg.from_pretrained(folder)
    config = Config.from_yaml(read_text(folder / "config.yaml"))
    save_checkpoint(tmp_path / "snapped", network, description, config)
    with pytest.raises(InputError, match="networks with formulas are not pruned"):
        prune_curve(Request(tmp_path / "snapped", tmp_path / "out", [0.5]))

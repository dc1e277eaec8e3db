import json

import pytest
import torch
from torch import nn

from kanseg.checkpoint import (
    build_model,
    describe,
    find_fault,
    point_to,
    preprocess_from,
    read_description,
    read_weights,
    save_checkpoint,
)
from kanseg.config import Config
from kanseg.counting import num_parameters
from kanseg.data import LabelInfo, Preprocess
from kanseg.errors import InputError
from kanseg.layers.regularisation import kan_layers
from kanseg.training.resume import read_training


def save(run, step, with_state=True):
    model = nn.Linear(2, 3)
    description = describe(
        Config(), LabelInfo("binary", ("a", "b")), Preprocess(mean=(0.1, 0.2, 0.3), resize=(8, 9))
    )
    extra = (
        {"state": {"step": step}, "tensors": {"optimizer": {"x": torch.ones(2)}}}
        if with_state
        else {}
    )
    return (
        save_checkpoint(
            run / "checkpoints" / f"step_{step:08d}", model, description, Config(), **extra
        ),
        model,
    )


def test_everything_comes_back(tmp_path):
    folder, model = save(tmp_path, 5)
    assert find_fault(folder) is None
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in read_weights(folder).items())
    state, tensors = read_training(folder)
    assert (state, tensors["optimizer"]["x"].tolist()) == ({"step": 5}, [1, 1])
    description = read_description(folder)
    assert preprocess_from(description["preprocess"]) == Preprocess(
        mean=(0.1, 0.2, 0.3), resize=(8, 9)
    )
    assert Config.from_yaml((folder / "config.yaml").read_text()) == Config()


def test_no_file_holds_a_pickle_but_the_one_that_loads_as_tensors(tmp_path):
    folder, _ = save(tmp_path, 5)
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.yaml",
        "manifest.json",
        "model.json",
        "model.safetensors",
        "state.json",
        "training.pt",
    ]
    torch.load(folder / "training.pt", weights_only=True)


def test_a_link_is_replaced(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        point_to(tmp_path / "last", tmp_path / name)
    assert (tmp_path / "last").resolve() == tmp_path / "b"
    assert not (tmp_path / "last").readlink().is_absolute()


def test_a_manifest_cannot_point_outside(tmp_path):
    folder, _ = save(tmp_path, 1)
    (tmp_path / "secret").write_text("x")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../../secret"] = {"size": 1, "sha256": "0"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "is missing" in find_fault(folder)


def test_a_network_that_cannot_be_built_is_an_input_error():
    with pytest.raises(InputError, match="did you mean 'unet'"):
        build_model({"name": "unett"})


def test_a_matched_width_is_written_down_as_a_number():
    """So that weights fit whatever becomes of the solving."""
    like = Config.from_yaml(
        "model: {name: unet, basis: gram, options: {width: 6, depth: 2, degree: 4}}"
    )
    control = Config.from_yaml(
        "model: {name: unet, basis: none, match: params, like: {basis: gram}, options: {width: 6,"
        " depth: 2, degree: 4}}"
    )
    labels, preprocess = LabelInfo("binary", ("a", "b")), Preprocess()
    with torch.device("meta"):
        sizes = [
            num_parameters(build_model(describe(config, labels, preprocess)["model"]))
            for config in (like, control)
        ]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.02)
    arguments = describe(control, labels, preprocess)["model"]
    assert json.loads(json.dumps(arguments)) == arguments
    assert arguments.keys() == {"name", "in_channels", "classes", "basis", "stem", "depth", "width"}
    assert not list(kan_layers(build_model(arguments)))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("{match: params}", "match must be 'params' or 'macs', and like"),
        ("{match: params, like: {basis: gramm}}", "did you mean 'gram'"),
        ("{options: {match: params}}", "model.options cannot hold match"),
    ],
)
def test_a_match_that_cannot_be_is_an_input_error(model, message):
    with pytest.raises(InputError, match=message):
        describe(Config.from_yaml(f"model: {model}"), LabelInfo("binary", ("a", "b")), Preprocess())

import json

import pytest
import torch
from safetensors.torch import save_file

from conftest import write_checkpoint
from kanseg.config import Config
from kanseg.data import LabelSpec, Preprocess
from kanseg.inference.checkpoint import (
    find_fault,
    load_model,
    read_description,
    read_weights,
    save_checkpoint,
)
from kanseg.inference.description import (
    build_model,
    check_description,
    describe,
    preprocess_from,
)
from kanseg.layers.regularization import kan_layers
from kanseg.models.operations import num_parameters
from kanseg.training.run_folder.stored_state import read_training
from kanseg.utils.errors import InputError
from kanseg.utils.io import replace_link


def test_everything_comes_back(tmp_path):
    folder, model = write_checkpoint(tmp_path, 5)
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
    folder, _ = write_checkpoint(tmp_path, 5)
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
        replace_link(tmp_path / "last", tmp_path / name)
    assert (tmp_path / "last").resolve() == tmp_path / "b"
    assert not (tmp_path / "last").readlink().is_absolute()


def test_a_manifest_cannot_point_outside(tmp_path):
    folder, _ = write_checkpoint(tmp_path, 1)
    (tmp_path / "secret").write_text("x")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../../secret"] = {"size": 1, "sha256": "0"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "../../secret" in find_fault(folder)


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
    labels, preprocess = LabelSpec("binary", ("a", "b")), Preprocess()
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
        describe(Config.from_yaml(f"model: {model}"), LabelSpec("binary", ("a", "b")), Preprocess())


def stored(folder, **changes):
    """A checkpoint of a small network, with other arguments in its description."""
    config = Config.from_yaml("model: {options: {width: 2, depth: 1}}")
    label_spec = LabelSpec("binary", ("a", "b"))
    description = describe(config, label_spec, Preprocess(mean=(0.1,), std=(1.0,)))
    model = build_model(description["model"])
    if "encoder" in changes:
        description["model"].pop("width")
        description["model"].pop("depth")
    description["model"] |= changes
    return save_checkpoint(folder / "step_00000001", model, description, config), description


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 10**6}, "does not fit"),
        ({"experts": 10**7}, "many more parameters"),
        ({"basis": "bspline", "grid_size": 10**8}, "does not fit"),
        ({"depth": 10**9}, "depth"),
        ({"width": 10**30}, "finite number"),
        ({"dropout": float("nan")}, "finite number"),
        ({"like": {"encoder_weights": "imagenet"}, "match": "params"}, "cannot have the argument"),
        ({"features_only": True}, "cannot have the argument"),
        ({"encoder": "smp-tu-hf-hub:a/b"}, "no model"),
        (
            {"encoder": "timm-resnet18", "encoder_options": {"checkpoint_path": "x"}},
            "checkpoint_path",
        ),
        ({"encoder": ["resnet"]}, "cannot be built"),
        ({"name": 5}, "cannot be built"),
        ({"norm": [1]}, "cannot be built"),
    ],
)
def test_stored_arguments_cannot_ask_for_what_the_weights_do_not_have(tmp_path, changes, message):
    """Neither terabytes, nor layers without end, nor other files, nor the network."""
    folder, description = stored(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        load_model(folder, description)


def test_weights_that_the_network_began_with_are_not_fetched_again(tmp_path):
    folder, description = stored(tmp_path, encoder_weights="imagenet")
    assert load_model(folder, description).state_dict().keys() == read_weights(folder).keys()


def test_integers_are_no_weights(tmp_path):
    folder, description = stored(tmp_path)
    weights = {name: value.to(torch.int8) for name, value in read_weights(folder).items()}
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(InputError, match="int8"):
        load_model(folder, description)


def test_weights_of_half_precision_are_taken(tmp_path):
    folder, description = stored(tmp_path)
    weights = read_weights(folder)
    halved = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    save_file(halved, folder / "model.safetensors")
    for name, value in load_model(folder, description).state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=1e-3, atol=1e-3)
        assert value.dtype == weights[name].dtype


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ((), [1]),
        (("kanseg",), 2),
        (("labels",), 5),
        (("labels", "task"), "odd"),
        (("labels", "classes"), ["a"]),
        (("labels", "classes"), ["a", "b", "c"]),
        (("labels", "classes"), ["a", "\x1b[31mb"]),
        (("labels", "palette"), "red"),
        (("labels", "palette"), [[0, 0, 256], [0, 0, 0]]),
        (("labels", "palette"), [[0, 0, 0]]),
        (("preprocess",), None),
        (("preprocess", "evil"), 1),
        (("preprocess", "channels"), 5),
        (("preprocess", "mean"), [0.1, 0.2]),
        (("preprocess", "mean"), [float("inf")]),
        (("preprocess", "std"), [0.0]),
        (("preprocess", "gamma"), -1.0),
        (("preprocess", "resize"), [10**6, 10**6]),
        (("preprocess", "resize"), "big"),
        (("preprocess", "interpolation"), "odd"),
        (("tile",), [0, 0]),
        (("tile",), [1]),
        (("model",), []),
        (("model", "classes"), 7),
    ],
)
def test_a_description_of_another_form_is_refused(tmp_path, place, value):
    _, description = stored(tmp_path)
    check_description(description, "model.json")
    if place:
        *way, last = place
        part = description
        for key in way:
            part = part[key]
        part[last] = value
    else:
        description = value
    with pytest.raises(InputError, match="model.json: "):
        check_description(description, "model.json")


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "{",
            "[]",
            "null",
            '{"files": []}',
            '{"files": null}',
            '{"filez": {}}',
            "[" * 100_000,
        ),
        *('{"files": {"model.json": 3}}', '{"files": {"model.json": {"size": 1}}}'),
        *('{"files": {"model.json": {"size": "1", "sha256": "a"}}}', '{"files": {"a": 1, "a": 2}}'),
        *('{"files": {"model.json": {"sizf": 1, "sha256": "a"}}}', '"\\ud800"'),
        *('{"files": {"a\\u0000": {"size": 1, "sha256": "a"}}}', '{"files": {}, "more": 1}'),
    ],
)
def test_a_damaged_manifest_is_a_fault(tmp_path, text):
    folder, _ = stored(tmp_path)
    (folder / "manifest.json").write_text(text)
    assert "manifest.json" in find_fault(folder)


def test_each_flipped_bit_of_a_manifest_is_a_fault(tmp_path):
    """Or none, where it stands between the entries."""
    folder, _ = stored(tmp_path)
    good = (folder / "manifest.json").read_bytes()
    for place in range(0, len(good), 7):
        for bit in (0, 5, 7):
            data = bytearray(good)
            data[place] ^= 1 << bit
            (folder / "manifest.json").write_bytes(data)
            fault = find_fault(folder)
            assert fault is not None or chr(good[place]).isspace()


def test_a_description_without_a_network_is_an_input_error(tmp_path):
    folder, description = stored(tmp_path)
    del description["model"]
    with pytest.raises(InputError, match="model: expected dict"):
        load_model(folder, description)

"""Files in exported form that no export has written."""

import json

import numpy as np
import pytest
import torch

import kanseg
from conftest import make_folder
from kanseg.explain.page import explain_checkpoint
from kanseg.inference.exported import load_exported
from kanseg.inference.novelty import novelty_segmenter
from kanseg.utils.errors import InputError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

DESCRIPTION = {
    "kanseg": 1,
    "labels": {"task": "multiclass", "classes": ["a", "b", "c"], "palette": [[0, 0, 0]] * 3},
    "preprocess": {"channels": 3, "mean": [0.5], "std": [0.25]},
    "tile": [32, 32],
    "preprocessing": "inside",
    "output": "logits",
    "batch": None,
}


def write(path, text, *, external=None):
    """Images plus a constant, with a description; the constant may lie in another file."""
    sides = ["B", 3, "H", "W"]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sides)
        for name in ("images", "logits")
    ]
    constant = onnx.numpy_helper.from_array(np.zeros((3, 10, 10), np.float32), "c")
    if external is not None:
        constant.ClearField("raw_data")
        constant.data_location = onnx.TensorProto.EXTERNAL
        for key, value in {"location": external, "offset": "0", "length": "1200"}.items():
            entry = constant.external_data.add()
            entry.key, entry.value = key, value
    node = onnx.helper.make_node("Add", ["images", "c"], ["logits"])
    graph = onnx.helper.make_graph([node], "network", ends[:1], ends[1:], [constant])
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    entry = model.metadata_props.add()
    entry.key, entry.value = "kanseg", text
    path.write_bytes(model.SerializeToString())
    return path


def test_a_description_of_the_right_form_is_taken(tmp_path):
    network, found = load_exported(write(tmp_path / "n.onnx", json.dumps(DESCRIPTION)))
    assert found == DESCRIPTION
    images = torch.rand(2, 3, 10, 10)
    assert torch.equal(network(images), images)


def test_a_predictor_gives_values_from_0_to_1_to_a_file_that_normalizes(tmp_path):
    description = DESCRIPTION | {"preprocess": DESCRIPTION["preprocess"] | {"gamma": 0.5}}
    predictor = kanseg.load(write(tmp_path / "n.onnx", json.dumps(description)))
    image = np.random.default_rng(0).integers(0, 256, (10, 10, 3), dtype=np.uint8)
    values = torch.from_numpy(image).permute(2, 0, 1) / 255  # the network outputs its input
    torch.testing.assert_close(predictor.probabilities(image), values.softmax(dim=0))


@pytest.mark.parametrize(
    "changes",
    [
        *({"labels": 5}, {"labels": {}}, {"preprocess": {"evil": 1}}, {"tile": [0, 0]}),
        *({"output": "odd"}, {"output": []}, {"batch": "2"}, {"batch": 0}, {"batch": 10**30}),
        *({"kanseg": 9}, {"preprocessing": "outside"}),
    ],
)
def test_a_description_of_another_form_is_refused(tmp_path, changes):
    path = write(tmp_path / "n.onnx", json.dumps(DESCRIPTION | changes))
    with pytest.raises(InputError, match="n.onnx"):
        load_exported(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"a": 1, "a": 2}'])
def test_what_is_no_description_is_refused(tmp_path, text):
    with pytest.raises(InputError, match="n.onnx"):
        load_exported(write(tmp_path / "n.onnx", text))


@pytest.mark.parametrize("data", [b"", b"hello" * 99, bytes(999), b"\x80\x04."])
def test_what_is_no_onnx_file_is_refused(tmp_path, data):
    (tmp_path / "n.onnx").write_bytes(data)
    with pytest.raises(InputError, match="n.onnx"):
        load_exported(tmp_path / "n.onnx")


@pytest.mark.parametrize("inside", [True, False])
def test_no_other_file_is_read(tmp_path, monkeypatch, inside):
    """Neither one beside the ONNX file nor one in the working folder."""
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.ones(300, np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    name = "secret.bin" if inside else str(secret)
    path = write(tmp_path / "n.onnx", json.dumps(DESCRIPTION), external=name)
    with pytest.raises(InputError, match="other files"):
        load_exported(path)


def test_the_layers_of_a_file_are_hidden(tmp_path):
    path = write(tmp_path / "n.onnx", json.dumps(DESCRIPTION))
    images = make_folder(tmp_path / "set", count=1, size=(10, 10), splits=False) / "images"
    with pytest.raises(InputError, match="exported file"):
        explain_checkpoint(path, str(images))
    with pytest.raises(InputError, match="exported file"):
        novelty_segmenter(kanseg.load(path), sorted(images.iterdir()))

"""Trained networks become files that give what the networks give."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import kanseg
from conftest import store_network
from kanseg.cli.export import main
from kanseg.export import Request, export_checkpoint
from kanseg.inference import Predictor
from kanseg.inference.exported import (
    ExportedNetwork,
    load_exported,
    open_exported,
    remaining_preprocess,
)
from kanseg.utils.errors import InputError

RNG = np.random.default_rng(0)


def by_hand(path, **options):
    network, description = load_exported(path, trust=True)
    labels, tile = description["labels"], description["tile"]
    where = {
        "classes": labels["classes"],
        "colors": labels["palette"],
        "task": labels["task"],
        "tile": tile and tuple(tile),
    }
    return Predictor(network, remaining_preprocess(description), **where, **options, device="cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return store_network(tmp_path_factory.mktemp("export") / "trained")


@pytest.fixture(scope="module")
def pt2(trained):
    path = trained.parent / "net.pt2"
    assert export_checkpoint(Request(str(trained), path)).passed
    return path


@pytest.fixture(scope="module")
def onnx(trained):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    path = trained.parent / "net.onnx"
    report = export_checkpoint(Request(str(trained), path, output_kind="probabilities"))
    assert report.passed
    assert report.bytes == path.stat().st_size
    return path


@pytest.mark.parametrize("form", [pytest.param("pt2", marks=pytest.mark.slow), "onnx"])
@pytest.mark.parametrize("options", [{}, {"flips": 4}])
def test_a_predictor_of_the_file_gives_the_masks_of_the_checkpoint(form, options, trained, request):
    ours, theirs = (
        by_hand(request.getfixturevalue(form), **options),
        Predictor.from_checkpoint(trained, device="cpu", **options),
    )
    for image in (
        RNG.integers(0, 256, (61, 83, 3), dtype=np.uint8),
        RNG.integers(0, 65536, (30, 100, 1), dtype=np.uint16),
    ):
        torch.testing.assert_close(
            ours.probabilities(image), theirs.probabilities(image), rtol=0, atol=1e-5
        )
        assert (ours(image) != theirs(image)).mean() < 1e-3


@pytest.mark.parametrize("form", ["pt2", "onnx"])
@pytest.mark.slow_except("onnx")
def test_all_that_is_needed_travels_in_the_file(form, request):
    _, description = load_exported(request.getfixturevalue(form), trust=True)
    assert description["labels"] == {
        "task": "binary",
        "classes": ["a", "b"],
        "palette": [[0, 0, 0], [40, 0, 0]],
    }
    assert description["preprocess"]["gamma"] == 0.5
    assert description["preprocessing"] == "inside"
    assert description["tile"] == [48, 48]
    assert description["version"] == kanseg.__version__


@pytest.mark.parametrize("form", ["pt2", "onnx"])
@pytest.mark.slow_except("onnx")
def test_no_path_of_this_machine_is_in_the_file(form, request):
    assert (
        str(Path(kanseg.__file__).parent).encode() not in request.getfixturevalue(form).read_bytes()
    )


def test_a_graph_of_probabilities_gives_logits_again(onnx):
    graph, description = open_exported(onnx)
    network, _ = load_exported(onnx)
    x = torch.rand(2, 3, 20, 24)
    assert description["output"] == "probabilities"
    torch.testing.assert_close(torch.sigmoid(network(x)), graph(x)[:, 1:], rtol=0, atol=1e-6)


def test_a_torch_file_is_loaded_only_if_it_is_trusted(pt2, monkeypatch):
    with pytest.raises(InputError, match="KANSEG_TRUST_PT2"):
        load_exported(pt2)
    monkeypatch.setenv("KANSEG_TRUST_PT2", "1")
    load_exported(pt2)


def test_images_of_other_channels_are_named(pt2):
    with pytest.raises(InputError, match=r"expected images \(B, 3, H, W\), got \(1, 4, 32, 32\)"):
        load_exported(pt2, trust=True)[0](torch.rand(1, 4, 32, 32))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_file_of_one_batch_takes_any_number(count):
    def run(images):
        assert len(images) == 2
        return images * 2

    network = ExportedNetwork(run, {"preprocess": {"channels": 3}, "batch": 2}, "x")
    x = torch.rand(count, 3, 4, 5)
    assert torch.equal(network(x), x * 2)


@pytest.mark.parametrize("name", ["no.pt2", "no.onnx", "no.txt"])
def test_what_is_not_there_is_told(name, tmp_path):
    with pytest.raises(InputError, match="no such file|expected an exported file"):
        load_exported(tmp_path / name, trust=True)


@pytest.mark.parametrize("form", ["pt2", "onnx"])
def test_a_truncated_file_is_told(form, tmp_path, request):
    path = request.getfixturevalue(form)
    torn = tmp_path / path.name
    torn.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputError, match="damaged|not an ONNX file"):
        load_exported(torn, trust=True)


def test_a_torch_file_of_others_is_told(tmp_path):
    torch.export.save(
        torch.export.export(torch.nn.Identity(), (torch.rand(2),)), tmp_path / "x.pt2"
    )
    with pytest.raises(InputError, match="no description of a kanseg network"):
        load_exported(tmp_path / "x.pt2", trust=True)


def test_the_tool_writes_the_file_and_its_figures(trained, tmp_path, capsys):
    path, figures = tmp_path / "x.pt2", tmp_path / "x.json"
    words = ["--checkpoint", str(trained), "--output", str(path), "--json", str(figures)]
    assert main(words) == 0
    agreement = json.loads(figures.read_text())["agreement"]
    printed = capsys.readouterr()
    assert f"probabilities differ by at most {agreement['probability']:.2g}" in printed.out
    assert f"of {agreement['pixels']} pixels" in printed.out
    assert printed.err == ""
    assert path.is_file()


def test_a_file_that_differs_from_the_network_is_not_written(trained, tmp_path, capsys):
    path = tmp_path / "x.pt2"
    path.write_text("an older one")
    words = ["--checkpoint", str(trained), "--output", str(path), "--tolerance", "0"]
    assert main(words) == 1
    assert "was not written" in capsys.readouterr().err
    assert path.read_text() == "an older one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("words", [["--batch", "many"], ["--json", "."]])
def test_a_wrong_option_of_the_tool_is_named(words, tmp_path):
    with pytest.raises(InputError, match=words[0]):
        main(["--checkpoint", "c", "--output", str(tmp_path / "x.onnx"), *words])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": Path("x.txt")}, "ends with"),
        ({"output": Path("x.pt2"), "format": "onnx"}, "ends with"),
        ({"output": Path("x.pt2"), "quantize": "dynamic"}, "ONNX"),
        ({"output": Path("x.pt2"), "opset": 18}, "ONNX"),
        ({"output": Path("x.onnx"), "quantize": "static"}, "--calibration"),
        ({"output": Path("x.onnx"), "calibration_count": 0}, "at least 1"),
        ({"output": Path("x.onnx"), "batch": -1}, "at least 1"),
        ({"output": Path("x.onnx"), "split": ["test"], "output_kind": "labels"}, "--split"),
        ({"output": Path("x.onnx")}, "nowhere/at/all"),
    ],
)
def test_impossible_requests_are_told(options, message):
    with pytest.raises(InputError, match=message):
        export_checkpoint(Request("nowhere/at/all", **options))


def test_a_network_without_preprocessing_is_told(tmp_path):
    kanseg.create_model("unet", width=2, depth=1).save_pretrained(tmp_path / "bare")
    with pytest.raises(InputError, match="without class names and preprocessing"):
        export_checkpoint(Request(str(tmp_path / "bare"), tmp_path / "x.pt2"))


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_told_with_the_cure(package, tmp_path, monkeypatch):
    from kanseg.export.quantize import quantize

    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=r'python -m pip install "kanseg\[export\]"'):
        quantize("dynamic", tmp_path / "a.onnx", tmp_path / "b.onnx", {})


def test_a_classifier_of_one_size_is_exported(tmp_path, monkeypatch):
    folder = store_network(
        tmp_path / "c",
        "kan",
        "classification",
        tuple("abc"),
        channels=1,
        image_size=[8, 8],
        hidden=[3],
    )
    report = export_checkpoint(
        Request(str(folder), tmp_path / "c.pt2", output_kind="probabilities")
    )
    assert report.passed
    assert report.agreement.batches == ("1x8x8", "3x8x8")
    network, _ = open_exported(tmp_path / "c.pt2", trust=True)
    torch.testing.assert_close(network(torch.rand(5, 1, 8, 8)).sum(dim=1), torch.ones(5))
    monkeypatch.setenv("KANSEG_TRUST_PT2", "1")
    image = RNG.integers(0, 256, (8, 8), dtype=np.uint8)
    ours, theirs = (kanseg.load(str(path), device="cpu") for path in (folder, tmp_path / "c.pt2"))
    assert ours(image).name == theirs(image).name
    torch.testing.assert_close(
        ours.probabilities(image), theirs.probabilities(image), atol=1e-5, rtol=0
    )
    with pytest.raises(InputError, match="8x8 only"):
        theirs(image[:4])


CASES = [
    ("unet", "multilabel", {"basis": "bspline"}),
    (
        "ukanet_18",
        "multiclass",
        {
            "basis": "wavelet",
            "width": 4,
            "resize": [48, 64],
            "interpolation": "area",
            "channels": 1,
        },
    ),
    ("ukan", "binary", {"basis": "gram", "width": 16}),
    ("u2kanet_small", "binary", {"basis": "rbf", "width": 4, "resize": [64, 64]}),
    ("unet", "multiclass", {"basis": "none", "resize": [40, 40]}),
    ("simple_kan_4", "classification", {"width": 4}),
]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
@pytest.mark.parametrize(("name", "task", "options"), CASES)
def test_every_kind_of_network_and_task(name, task, options, suffix, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    folder = store_network(
        tmp_path / "net", name, task, ("a", "b") if task == "binary" else tuple("abc"), **options
    )
    assert export_checkpoint(Request(str(folder), tmp_path / f"net{suffix}")).passed


@pytest.mark.slow
def test_resized_images_of_8_bits_give_the_checkpoints_masks_but_for_what_opencv_rounds(tmp_path):
    folder = store_network(tmp_path / "net", resize=[40, 48], interpolation="area")
    export_checkpoint(Request(str(folder), tmp_path / "net.pt2"))
    image = RNG.integers(0, 256, (90, 83, 3), dtype=np.uint8)
    ours, theirs = (
        by_hand(tmp_path / "net.pt2").probabilities(image),
        Predictor.from_checkpoint(folder, device="cpu").probabilities(image),
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [None, 2])
def test_quantized_files_and_the_table(batch, trained, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    for i in range(4):
        Image.fromarray(RNG.integers(0, 256, (50, 60, 3), dtype=np.uint8)).save(
            tmp_path / f"{i}.png"
        )
    options = {
        "calibration": str(tmp_path),
        "calibration_count": 2,
        "least_agreement": 0.5,
        "batch": batch,
    }
    report = export_checkpoint(
        Request(
            str(trained), tmp_path / "net.onnx", quantize="static", table=True, runs=1, **options
        )
    )
    assert report.passed
    assert load_exported(tmp_path / "net.onnx")[1]["quantized"] == "static"
    assert [row.form for row in report.rows] == [
        "torch",
        "torch.export",
        "onnx",
        "onnx int8 dynamic",
        "onnx int8 static",
    ]
    assert all(row.one_thread > 0 and row.bytes > 0 for row in report.rows)

"""The page of a trained network: what it says, and how it behaves in a browser."""

import json
import re

import pytest
from chromium import Chromium, find_chromium
from commands import kanseg_command

import kanseg
from conftest import make_folder, store_network
from kanseg.explain.page import explain_checkpoint, find_pruning, run_folder
from kanseg.utils.errors import InputError
from kanseg.utils.html import anchor
from kanseg.utils.io import file_digest

pytest.importorskip("pytorch_grad_cam")
OPTIONS = {"width": 4, "depth": 1, "classes": ("background", "<b>disc</b>")}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return make_folder(folder / "set", count=3, size=(40, 48), scale=255) / "images"


@pytest.fixture(scope="module")
def page(images, tmp_path_factory):
    """The page of a run that has a report, of a network of random weights."""
    run = tmp_path_factory.mktemp("runs") / "mine"
    store_network(run / "best", **OPTIONS)
    (run / "report.html").write_text("old")
    (run / "pruned").mkdir()
    point = {"share": 1.0, "parameters": 7937, "milliseconds": 1.5, "score": 0.8125}
    point |= {"criterion": "", "finetuned": None, "relative_time": 1.0}
    half = point | {"criterion": "magnitude", "share": 0.5, "finetuned": 0.75, "score": 0.625}
    weights = file_digest(run / "best" / "model.safetensors")
    content = {"weights": weights, "score": "foreground_iou", "points": [point, half]}
    (run / "pruned" / "curve.json").write_text(json.dumps(content))
    return explain_checkpoint(run / "best", str(images), shown=2, max_images=2)


def viewer(text):
    """The images, classes and maps that the script of a page reads."""
    return json.loads(re.search(r'id="viewer">(.*?)</script>', text, re.DOTALL)[1])


def test_the_page_is_one_file_that_loads_nothing(page):
    text = page.read_text()
    assert page.name == "explain.html"
    assert not re.findall(r'(?:src|href)="(?!data:|#|report\.html)', text)
    assert "<b>disc" not in text


def test_every_layer_has_a_row_and_curves(page):
    text = page.read_text()
    network = kanseg.from_pretrained(page.parent / "best")
    layers = [name for name, part in network.named_modules() if hasattr(part, "num_activations")]
    assert len(layers) == 6
    for layer in layers:
        assert f'<th scope="row">{layer}</th>' in text.replace("<wbr>", "")
        assert f"Curves of the functions of {layer}, " in text


def test_images_have_maps_of_their_classes(page):
    shown = viewer(page.read_text())
    assert [image["name"] for image in shown] == ["p00.png", "p02.png"]
    for image in shown:
        assert (image["height"], image["width"]) == (40, 48)
        for label in image["classes"]:
            titles = [heatmap["title"] for heatmap in label["maps"]]
            assert titles[0] == "Prediction"
            assert sum(title.startswith("Grad-CAM") for title in titles) == 2
            assert sum(title.startswith("Contribution") for title in titles) == 4


def test_the_pruning_curve_of_the_run_is_shown(page):
    text = page.read_text()
    assert '<th scope="row">magnitude</th><td>50%</td><td>7,937</td>' in text
    assert "<td>0.6250</td><td>0.7500</td>" in text
    assert re.search(r'<img[^>]*alt="Score against parameters', text)


def test_the_pruning_curve_of_other_weights_is_not_shown(page):
    assert find_pruning(page.parent, "of weights that were replaced") is None


def test_report_and_page_link_to_each_other(page):
    assert 'href="report.html"' in page.read_text()
    report = (page.parent / "report.html").read_text()
    assert 'href="explain.html"' in report


def test_the_page_is_accessible(page):
    text = page.read_text()
    assert all('alt="' in tag for tag in re.findall("<img[^>]*>", text))
    for table in re.findall(r"<table>.*?</table>", text, re.DOTALL):
        assert "<caption>" in table
        assert 'scope="col"' in table
    for control in ("image", "class", "map", "opacity"):
        assert re.search(rf'<label>[^<]+<(?:select|input) id="{control}"', text)


@pytest.mark.slow
def test_every_text_is_translated(images, tmp_path, monkeypatch):
    monkeypatch.setenv("KANSEG_LANG", "zh")
    run = store_network(tmp_path / "net", **OPTIONS)
    page = explain_checkpoint(run, str(images), shown=1, max_images=1)
    text = page.read_text()
    assert '<html lang="zh">' in text
    shown = re.sub(r"<(script|style)[^>]*>.*?</\1>", " ", text, flags=re.DOTALL)
    shown = re.sub("<[^>]*>", " ", shown)
    english = set(re.findall(r"[A-Za-z]{3,}", shown))
    words = {"the", "layer", "class", "functions", "channel", "Health", "Curves", "Where"}
    assert not english & words
    assert viewer(text)[0]["classes"][0]["maps"][0]["title"] == "预测"


@pytest.mark.slow
def test_a_classifier_has_grad_cam_of_its_best_classes(images, tmp_path):
    network = kanseg.create_classifier("simple_kan_4", 3, 3, width=2)
    labels = {"task": "classification", "classes": ["a", "b", "c"]}
    preprocess = {"channels": 3, "mean": [0.4], "std": [0.2], "resize": [32, 32]}
    network.description |= {"labels": labels, "preprocess": preprocess}
    network.save_pretrained(tmp_path / "net")
    page = explain_checkpoint(tmp_path / "net", str(images), shown=1, max_images=2, occlude=True)
    (image,) = viewer(page.read_text())
    assert len(image["classes"]) == 2
    titles = [heatmap["title"] for heatmap in image["classes"][0]["maps"]]
    assert titles[-1] == "Occlusion of the image"
    assert titles[0].startswith("Grad-CAM")


def test_a_plain_network_has_maps_but_no_curves(images, tmp_path):
    run = store_network(tmp_path / "net", basis="none")
    text = explain_checkpoint(run, str(images), shown=1, max_images=1).read_text()
    assert "no learned functions" in text
    assert len(viewer(text)[0]["classes"][0]["maps"]) > 2


def test_the_command_writes_a_page_of_chosen_layers(images, tmp_path):
    store_network(tmp_path / "net", basis="none")
    target = tmp_path / "page.html"
    arguments = ["--checkpoint", tmp_path / "net", "--input", images / "p00.png"]
    done = kanseg_command("explain", *arguments, "--output", target, "--layers", "encoder.stages.1")
    assert done.returncode == 0, done.stderr
    assert str(target) in done.stdout
    maps = viewer(target.read_text())[0]["classes"][0]["maps"]
    assert "Grad-CAM in encoder.stages.1" in [heatmap["title"] for heatmap in maps]
    done = kanseg_command("explain", *arguments, "--layers", "encoder.stages.9")
    assert done.returncode == 2
    assert "did you mean" in done.stderr


def test_the_run_of_a_checkpoint(tmp_path):
    assert run_folder(tmp_path / "run" / "best") == tmp_path / "run"
    assert run_folder(tmp_path / "run" / "checkpoints" / "step_1") == tmp_path / "run"
    assert run_folder(tmp_path / "run") == tmp_path / "run"


def test_options_out_of_range(tmp_path):
    with pytest.raises(InputError, match="at least 1"):
        explain_checkpoint(tmp_path, "images", shown=0)


@pytest.mark.slow
@pytest.mark.skipif(find_chromium() is None, reason="needs chromium")
def test_in_a_browser(page, tmp_path):
    with Chromium(tmp_path / "chromium") as browser:
        for width, height, mobile in ((1280, 900, False), (390, 844, True)):
            browser.resize(width, height, mobile=mobile, dark=mobile)
            browser.open(page.as_uri())
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
            for title in ("Where it looked", "Health", "Curves"):
                assert browser.evaluate(f"document.getElementById('{anchor(title)}') !== null")
        before = browser.evaluate("document.getElementById('overlay').src")
        browser.evaluate("document.getElementById('map').focus()")
        for kind in ("keyDown", "keyUp"):
            key = {"key": "ArrowDown", "code": "ArrowDown", "windowsVirtualKeyCode": 40}
            browser.call("Input.dispatchKeyEvent", type=kind, **key)
        browser.wait(f"document.getElementById('overlay').src !== {json.dumps(before)}")
        caption = browser.evaluate("document.getElementById('title').textContent")
        assert caption.startswith("Grad-CAM in ")
        set_opacity = "opacity.value = 25; opacity.dispatchEvent(new Event('input'))"
        browser.evaluate(set_opacity)
        assert browser.evaluate("getComputedStyle(overlay).opacity") == "0.25"
        sizes = browser.evaluate(
            "[base, overlay].map(image => [image.clientWidth, image.clientHeight])"
        )
        assert sizes[0] == sizes[1]
        assert browser.console == []
        assert all(url.startswith(("file:", "data:")) for url in browser.requests)

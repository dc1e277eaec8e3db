"""The page that runs an exported network in a browser predicts what kanseg predicts."""

import base64
import gzip
import json
import re

import numpy as np
import pytest
import torch
from chromium import Chromium, find_chromium
from PIL import Image

import kanseg
from conftest import store_network
from kanseg.cli.export import main
from kanseg.data import read_image
from kanseg.export import Request, export_checkpoint
from kanseg.export.demo import MAX_PIXELS, MAX_VALUES, check_demo, page_settings, write_demo
from kanseg.export.web_runtime import FILE, WebRuntime, find_web_runtime
from kanseg.inference import Predictor
from kanseg.inference.description import preprocess_from
from kanseg.utils.errors import InputError
from kanseg.utils.io import user_cache_folder

RUNTIME = WebRuntime(b"script // </script>", b"module", b"\0wasm", "1.2.3")
DESCRIPTION = {
    "labels": {
        "task": "multiclass",
        "classes": ["background", "</script><b>", "c"],
        "palette": [[0, 0, 0], [255, 0, 0], [0, 255, 0]],
    },
    "preprocess": {"channels": 3, "resize": None},
    "tile": [640, 512],
    "output": "logits",
}


def changed(**entries):
    """The description with other entries in its parts."""
    result = DESCRIPTION | {name: value for name, value in entries.items() if name == "tile"}
    for part in ("labels", "preprocess"):
        result[part] = DESCRIPTION[part] | entries.get(part, {})
    return result


def assigned(text, name):
    """The JSON value that a script assigns to `self.NAME`."""
    return json.loads(re.search(rf"self\.{name} = (.*);\n", text)[1])


def test_the_scripts_hold_the_network_and_the_runtime(tmp_path):
    size = write_demo(tmp_path, b"network", DESCRIPTION, RUNTIME, name="mine")
    files = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert sorted(files) == ["index.html", "model.js", "runtime.js"]
    assert size == sum(path.stat().st_size for path in tmp_path.iterdir())
    model = assigned(files["model.js"], "kansegModel")
    assert gzip.decompress(base64.b64decode(model)) == b"network"
    runtime = assigned(files["runtime.js"], "kansegRuntime")
    assert runtime["script"] == "script // </script>"
    assert runtime["module"] == "module"
    assert gzip.decompress(base64.b64decode(runtime["wasm"])) == b"\0wasm"
    assert "MIT License" in files["runtime.js"]


def test_the_page_loads_nothing_from_elsewhere_and_names_of_classes_are_escaped(tmp_path):
    write_demo(tmp_path, b"network", DESCRIPTION, RUNTIME, name="<mine>")
    page = (tmp_path / "index.html").read_text()
    assert re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="([^"]*)"', page) == [
        "runtime.js",
        "model.js",
    ]
    assert "default-src 'none'" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "<b>" not in page
    assert "<title>&lt;mine&gt;</title>" in page


def test_other_files_in_the_folder_stay(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    write_demo(tmp_path, b"network", DESCRIPTION, RUNTIME, name="mine")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_tiles_are_those_of_predict():
    assert page_settings(DESCRIPTION)["tile"] == [640, 512]
    assert page_settings(changed(tile=None))["tile"] == (512, 512)
    assert page_settings(changed(preprocess={"resize": [64, 64]}))["tile"] is None


def test_more_classes_leave_memory_for_fewer_pixels():
    assert page_settings(DESCRIPTION)["max_pixels"] == MAX_PIXELS
    many = {"classes": [str(i) for i in range(64)], "palette": [[0, 0, 0]] * 64}
    assert page_settings(changed(labels=many))["max_pixels"] == MAX_VALUES // 64


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ({"labels": {"task": "classification"}}, "classifier"),
        ({"preprocess": {"channels": 4}}, "4 channels"),
        ({"preprocess": {"floats": True}}, "floats"),
    ],
)
def test_networks_whose_images_no_browser_reads_are_refused(entries, match):
    with pytest.raises(InputError, match=f"^net .*{match}"):
        check_demo(changed(**entries), "net")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"output": "x.pt2"}, "ends with .onnx"),
        ({"output_kind": "labels"}, "blends tiles"),
        ({"batch": 2}, "--batch 2"),
        ({"demo": False, "demo_runtime": "x.tgz"}, "give both"),
    ],
)
def test_options_that_no_page_can_have_are_refused(options, match, tmp_path):
    options = {"output": "x.onnx", "demo": True} | options
    options["output"] = tmp_path / options["output"]
    with pytest.raises(InputError, match=match):
        Request("run", **options).form()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "x_demo").write_text("")
    with pytest.raises(InputError, match="x_demo is a file"):
        Request("run", tmp_path / "x.onnx", demo=True).form()


def test_the_command_refuses_four_channels_before_it_exports(tmp_path):
    trained = store_network(tmp_path / "net", channels=4)
    with pytest.raises(InputError, match="4 channels"):
        main(["--checkpoint", str(trained), "--output", str(tmp_path / "x.onnx"), "--demo"])
    assert not (tmp_path / "x.onnx").exists()


# ---- in a browser

NETWORKS = {
    "binary": {"classes": ("a", "b")},
    "multilabel": {"task": "multilabel", "classes": ("a", "b", "c"), "channels": 1},
    "multiclass": {"task": "multiclass", "classes": ("a", "b", "c")},
    "resized": {"task": "multiclass", "resize": [24, 32], "interpolation": "area"},
}
TOLERANCE = 0.002  # share of pixels that differ: where two classes are equally likely
# OpenCV rounds the bytes of a resized image, the exported network does not.
TOLERANCE_RESIZED = 0.02


@pytest.fixture(scope="module")
def runtime():
    """onnxruntime-web in the cache of the user, who runs such tests more than once."""
    try:
        find_web_runtime()
    except InputError as error:
        pytest.skip(str(error))
    return str(user_cache_folder("web_runtime") / FILE)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    if find_chromium() is None:
        pytest.skip("needs chromium")
    with Chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


def smooth_image():
    """An image (61, 83) of smooth colors."""
    rng = np.random.default_rng(0)
    spots = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    return spots.resize((83, 61), Image.Resampling.BICUBIC)


def balance(folder):
    """Change the biases of a network such that the mean of each logit is 0: masks have several
    classes.
    """
    model = kanseg.from_pretrained(folder).eval()
    preprocess = preprocess_from(model.description["preprocess"])
    with torch.no_grad():
        logits = model(preprocess(np.asarray(smooth_image()))[None])
        model.segmentation_head.bias -= logits.mean(dim=(0, 2, 3))
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def demos(tmp_path_factory, runtime):
    """A function: the name of a network -> (its folder, its page)."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    folder, made = tmp_path_factory.mktemp("demos"), {}

    def demo(name):
        if name not in made:
            trained = store_network(folder / name, **NETWORKS[name])
            balance(trained)
            output = folder / f"{name}.onnx"
            request = Request(str(trained), output, demo=True, demo_runtime=runtime)
            made[name] = trained, export_checkpoint(request).demo
        return made[name]

    return demo


@pytest.fixture
def images(tmp_path):
    """An image of smooth colors (61, 83, 3) in several kinds of files."""
    image = smooth_image()
    image.save(tmp_path / "rgb.png")
    image.save(tmp_path / "rgb.webp", lossless=True)
    image.save(tmp_path / "rgb.bmp")
    image.convert("L").save(tmp_path / "gray.png")
    image.convert("P").save(tmp_path / "palette.png")
    orientation = Image.Exif()
    orientation[0x0112] = 6
    image.save(tmp_path / "turned.jpg", quality=95, subsampling=0, exif=orientation)
    return tmp_path


def predict(page, address, image):
    """Open the page of a demo, and give it an image."""
    page.console.clear()
    page.requests.clear()
    page.open(address.as_uri())
    page.wait("document.body.dataset.state === 'ready'")
    page.choose("#file", image)
    page.wait("document.getElementById('message').textContent.startsWith('Done')")


def saved(page, name, selector="#save_mask"):
    """The mask that the page saves."""
    (page.downloads / name).unlink(missing_ok=True)
    page.evaluate(f"document.querySelector({selector!r}).click()")
    with Image.open(page.downloaded(name)) as mask:
        return np.asarray(mask), mask.getpalette()


@pytest.mark.slow
@pytest.mark.parametrize("file", ["rgb.png", "gray.png", "turned.jpg"])
@pytest.mark.parametrize("name", NETWORKS)
def test_masks_are_those_of_predict(name, file, page, demos, images):
    trained, address = demos(name)
    predict(page, address, images / file)
    expected = Predictor.from_checkpoint(trained, device="cpu")(read_image(images / file))
    stem = file.partition(".")[0]
    if name == "multilabel":
        masks = []
        for i, label in enumerate("abc", start=1):
            button = f"#classes li:nth-child({i}) button"
            masks.append(saved(page, f"{stem}_{label}.png", button)[0] // 255)
        mask = np.stack(masks)
    else:
        mask, palette = saved(page, f"{stem}.png")
        assert palette[:6] == [0, 0, 0, 40, 0, 0]
    tolerance = TOLERANCE
    if name == "resized" or file == "turned.jpg":
        tolerance = TOLERANCE_RESIZED
    assert mask.shape == expected.shape
    assert len(np.unique(expected)) > 1
    differing = (mask != expected).mean()
    print(f"{name} {file}: {1 - differing:.5f} of the pixels are equal")
    assert differing <= tolerance
    assert page.console == []
    assert all(url.startswith(("file:", "blob:")) for url in page.requests)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["rgb.webp", "rgb.bmp", "palette.png"])
def test_other_files_are_read_alike(file, page, demos, images):
    trained, address = demos("binary")
    predict(page, address, images / file)
    mask, _ = saved(page, f"{file.partition('.')[0]}.png")
    expected = Predictor.from_checkpoint(trained, device="cpu")(read_image(images / file))
    assert (mask != expected).mean() <= TOLERANCE


@pytest.mark.slow
def test_a_threshold_changes_mask_and_shares(page, demos, images):
    _, address = demos("binary")
    predict(page, address, images / "rgb.png")
    shares = []
    for threshold in (20, 80):
        page.evaluate(
            f"get('threshold').value = {threshold};"
            "get('threshold').dispatchEvent(new Event('input'))"
        )
        mask, _ = saved(page, "rgb.png")
        shares.append(mask.mean())
        text = page.evaluate("get('share1').textContent")
        assert text == f"{mask.mean():.1%}"
    assert shares[0] > shares[1]


@pytest.mark.slow
def test_the_overlay_is_the_image_tinted_where_a_class_is_visible(page, demos, images):
    _, address = demos("binary")
    predict(page, address, images / "rgb.png")
    mask, _ = saved(page, "rgb.png")
    overlay, _ = saved(page, "rgb_overlay.png", "#save_overlay")
    image = read_image(images / "rgb.png").astype(float)
    expected = np.where(mask[..., None] == 1, (image + [40, 0, 0]) / 2, image)
    assert np.abs(overlay[..., :3] - expected).max() <= 1.5


@pytest.mark.slow
def test_the_controls_are_used_by_keys_and_have_names(page, demos, images):
    _, address = demos("multilabel")
    predict(page, address, images / "rgb.png")
    names = set()
    for node in page.call("Accessibility.getFullAXTree")["nodes"]:
        if node["role"].get("value") in ("button", "slider", "checkbox", "image"):
            names.add(node["name"]["value"].split(":")[0])
    expected = {"Opacity of the mask", "Threshold of the probability"}
    expected |= {"Download overlay", "Image rgb.png with its mask", "Choose an image"}
    expected |= {f"Download the mask of {label}" for label in "abc"}
    missing = {name for name in expected if not any(name in found for found in names)}
    assert missing == set(), names
    page.evaluate("get('opacity').focus()")
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key="ArrowRight", windowsVirtualKeyCode=39)
    assert page.evaluate("get('opacity_value').textContent") == "51%"


@pytest.mark.slow
def test_what_cannot_be_predicted_is_said(page, demos, images):
    _, address = demos("binary")
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(images / "deep.png")
    Image.new("1", (4200, 4200)).save(images / "large.png")
    (images / "text.png").write_text("no image")
    (images / "torn.png").write_bytes((images / "rgb.png").read_bytes()[:60])
    faults = {"deep": "16 bits", "large": "4200", "text": "PNG, JPEG", "torn": "torn.png"}
    predict(page, address, images / "rgb.png")
    for name, text in faults.items():
        page.choose("#file", images / f"{name}.png")
        page.wait("!get('error').hidden")
        assert text in page.evaluate("get('error').textContent")
        page.choose("#file", images / "rgb.png")
        page.wait("get('error').hidden && get('message').textContent.startsWith('Done')")
    rgba = np.dstack([read_image(images / "rgb.png"), np.full((61, 83), 200, np.uint8)])
    Image.fromarray(rgba).save(images / "alpha.png")
    page.choose("#file", images / "alpha.png")
    page.wait("get('warning').textContent.includes('transparent')")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "content", "text"),
    [
        ("model.js", "self.kansegModel = 'AAAA';", "The network failed"),
        ("model.js", "", "model.js is missing"),
        ("runtime.js", None, "runtime.js is missing"),
    ],
)
def test_damaged_files_are_said(file, content, text, page, demos, images):
    _, address = demos("binary")
    copy = images / "copy"
    copy.mkdir()
    for path in address.parent.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / file).unlink()
    if content is not None:
        (copy / file).write_text(content)
    page.open((copy / "index.html").as_uri())
    page.wait("document.body.dataset.state === 'broken'")
    assert text in page.evaluate("get('error').textContent")
    page.choose("#file", images / "rgb.png")  # is not a silent nothing
    page.wait("document.body.dataset.state === 'broken' && !get('error').hidden")


@pytest.mark.slow
def test_an_image_given_during_a_prediction_is_the_one_that_is_shown(page, demos, images):
    trained, address = demos("multiclass")
    image = Image.open(images / "rgb.png").resize((700, 500))
    image.save(images / "long.png")
    predict(page, address, images / "rgb.png")
    page.choose("#file", images / "long.png")
    page.wait("document.body.dataset.state === 'predicting'")
    page.choose("#file", images / "gray.png")
    page.wait("state === 'ready' && shown.name === 'gray.png' && shown.result !== undefined")
    mask, _ = saved(page, "gray.png")
    expected = Predictor.from_checkpoint(trained, device="cpu")(read_image(images / "gray.png"))
    assert (mask != expected).mean() <= TOLERANCE

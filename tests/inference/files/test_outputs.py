import json

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import nn

from kanseg.data import Preprocess, read_label
from kanseg.data.formats.labelme import read_labelme
from kanseg.data.io.images import read_mask_values
from kanseg.inference import Outputs, Predictor, find_images, find_jobs, predict_files
from kanseg.inference.files.outputs import class_folders, uncertainty_image
from kanseg.utils.errors import InputError

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (61, 83, 3), dtype=np.uint8)


class Channels(nn.Module):
    """The channels are the logits: red above a half is class 0 and so on."""

    def forward(self, x):
        return x * 4


def predictor(task="multilabel", **options):
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    return Predictor(
        Channels(),
        Preprocess(mean=(0.5,), std=(0.25,)),
        classes=["red", "a/b", "red."],
        colors=colors,
        task=task,
        device="cpu",
        **options,
    )


@pytest.fixture
def source(tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(IMAGE).save(tmp_path / "in" / "p.png")
    return tmp_path / "in"


def predict(source, output, model, **options):
    outcome = predict_files(model, find_images(str(source)), output, log=lambda _: None, **options)
    assert outcome.failed == []
    return outcome


def written(output):
    """All files but the journal."""
    files = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    return sorted(files - {"prediction.jsonl"})


def test_multilabel_masks_lie_in_a_folder_a_class(source, tmp_path):
    predict(source, tmp_path / "out", predictor())
    assert written(tmp_path / "out") == ["a_b/p.png", "overlays/p.png", "red/p.png", "red_/p.png"]
    for channel, folder in enumerate(("red", "a_b", "red_")):
        assert np.array_equal(
            np.asarray(Image.open(tmp_path / "out" / folder / "p.png")),
            (IMAGE[:, :, channel] >= 128) * np.uint8(255),
        )


def test_folders_are_different_names_that_are_not_taken():
    assert class_folders(["a", "A", "a/b", "..", "overlays", " x "]) == [
        "a",
        "A_",
        "a_b",
        "_",
        "overlays_",
        "x",
    ]


@pytest.mark.parametrize("kind", ["npz", "png"])
def test_probabilities_are_those_of_the_predictor(source, tmp_path, kind):
    model = predictor("multiclass")
    predict(source, tmp_path / "out", model, outputs=Outputs(overlays=False, probabilities=kind))
    expected = model.probabilities(IMAGE).numpy()
    if kind == "npz":
        stored = np.load(tmp_path / "out" / "probabilities" / "p.npz")
        assert stored["classes"].tolist() == ["red", "a/b", "red."]
        assert stored["probabilities"].dtype == np.float16
        np.testing.assert_allclose(stored["probabilities"], expected, atol=5e-4)
    else:
        files = [
            tmp_path / "out" / "probabilities" / folder / "p.png"
            for folder in ("red", "a_b", "red_")
        ]
        np.testing.assert_allclose(
            np.stack([np.asarray(Image.open(f)) for f in files]) / 255,
            expected,
            atol=0.5 / 255 + 1e-6,
        )


def test_uncertainty_is_stored_as_numbers_and_as_an_image(source, tmp_path):
    for flips in (1, 2):
        model = predictor("multiclass", flips=flips)
        predict(
            source,
            tmp_path / f"out{flips}",
            model,
            outputs=Outputs(overlays=False, uncertainty=True),
        )
        stored = np.load(tmp_path / f"out{flips}" / "uncertainty" / "p.npz")["uncertainty"]
        np.testing.assert_array_equal(stored, model.uncertainty(IMAGE))
        image = np.asarray(Image.open(tmp_path / f"out{flips}" / "uncertainty" / "p.png"))
        assert np.array_equal(image, uncertainty_image(stored, flips))


def test_images_of_uncertainty_by_hand():
    assert uncertainty_image(np.array([0.0, 0.5, 1.0]), 1).tolist() == [0, 128, 255]
    assert uncertainty_image(np.array([0.0, 0.01, 0.25]), 4).tolist() == [
        0,
        51,
        255,
    ]  # deviations of 0, 0.1, 0.5


def test_annotations_hold_all_images_also_skipped_ones(source, tmp_path):
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(source / "q.png")
    once, twice = (predict_coco(source, tmp_path / "out", skip) for skip in (False, True))
    assert once == twice
    assert [(image["file_name"], image["width"], image["height"]) for image in once["images"]] == [
        ("p.png", 83, 61),
        ("q.png", 9, 9),
    ]
    assert sum(note["area"] for note in once["annotations"]) == (IMAGE >= 128).sum()
    assert [category["name"] for category in once["categories"]] == ["red", "a/b", "red."]


def predict_coco(source, output, skip):
    outcome = predict(
        source, output, predictor(), outputs=Outputs(polygons="coco"), skip_existing=skip
    )
    assert len(outcome.skipped) == 2 * skip
    return json.loads((output / "annotations.json").read_text())


def test_labelme_files_lead_to_the_image_and_back_to_the_mask(source, tmp_path):
    Image.fromarray(IMAGE[::-1].copy()).save(source / "q.png")
    Image.fromarray(IMAGE[:, ::-1].copy()).save(source / "r.png")
    model = predictor("multiclass")
    predict(source, tmp_path / "out", model, outputs=Outputs(polygons="labelme"))
    for name in ("p", "q", "r"):
        path = tmp_path / "out" / "polygons" / f"{name}.json"
        content = json.loads(path.read_text())
        assert (path.parent / content["imagePath"]).resolve() == source / f"{name}.png"
        (source / path.name).write_text(path.read_text())
    index = read_labelme(source, {"classes": model.classes})
    for sample in index.samples(list(index.splits)):
        mask = read_mask_values(tmp_path / "out" / f"{sample.name}.png")
        assert np.array_equal(read_label(sample, index.label_spec), mask)


def test_geojson_of_a_geotiff_lies_on_the_map(tmp_path):
    place = [
        (33550, "d", 3, (10.0, 10.0, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, 1000.0, 2000.0, 0.0), True),
    ]
    tifffile.imwrite(
        tmp_path / "p.tif", np.full((4, 6, 3), 255, np.uint8), photometric="rgb", extratags=place
    )
    predict(tmp_path / "p.tif", tmp_path / "out", predictor(), outputs=Outputs(polygons="geojson"))
    collection = json.loads((tmp_path / "out" / "polygons" / "p.geojson").read_text())
    assert [feature["properties"]["class"] for feature in collection["features"]] == [
        "red",
        "a/b",
        "red.",
    ]
    corners = np.array(collection["features"][0]["geometry"]["coordinates"][0])
    assert (corners.min(axis=0).tolist(), corners.max(axis=0).tolist()) == (
        [1000, 1960],
        [1060, 2000],
    )


def test_only_what_is_complete_is_skipped(source, tmp_path):
    for outputs, skipped in (
        (Outputs(), 0),
        (Outputs(), 1),
        (Outputs(uncertainty=True), 0),
        (Outputs(uncertainty=True), 1),
    ):
        assert (
            len(
                predict(
                    source, tmp_path / "out", predictor(), outputs=outputs, skip_existing=True
                ).skipped
            )
            == skipped
        )


def test_images_in_folders_lie_in_folders(tmp_path):
    for name in ("a.png", "x/a.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(IMAGE).save(tmp_path / "in" / name)
    jobs, _ = find_jobs(str(tmp_path / "in"), recursive=True)
    predict_files(predictor("multiclass"), jobs, tmp_path / "out")
    assert written(tmp_path / "out") == ["a.png", "overlays/a.png", "overlays/x/a.png", "x/a.png"]


def test_images_predicted_together_have_the_masks_of_each(tmp_path):
    images = {
        f"p{i}": RNG.integers(0, 256, (20 + 3 * (i % 4 == 3), 30, 3), dtype=np.uint8)
        for i in range(9)
    }
    (tmp_path / "in").mkdir()
    for name, image in images.items():
        Image.fromarray(image).save(tmp_path / "in" / f"{name}.png")
    batch_sizes = []
    model = predictor("multiclass", batch_size=4)
    model.model.register_forward_pre_hook(lambda _, x: batch_sizes.append(len(x[0])))
    predict(tmp_path / "in", tmp_path / "out", model)
    assert batch_sizes == [3, 1, 3, 1, 1]
    for name, image in images.items():
        assert np.array_equal(
            np.asarray(Image.open(tmp_path / "out" / f"{name}.png")), model(image)
        )


def test_a_failure_leaves_nothing_half_written(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "polygons").write_text("a file where a folder should be")
    outcome = predict_files(
        predictor(),
        find_images(str(source)),
        tmp_path / "out",
        outputs=Outputs(polygons="geojson"),
        log=lambda _: None,
    )
    assert outcome.failed[0].startswith(f"{source / 'p.png'}: ")
    assert (outcome.written, outcome.skipped) == ([], [])
    assert not list((tmp_path / "out").glob("red*/*"))
    assert not list((tmp_path / "out").rglob("*.tmp*"))


def test_large_images_of_one_size_are_all_written(source, tmp_path):
    Image.fromarray(IMAGE[::-1].copy()).save(source / "q.png")
    predict(source, tmp_path / "out", predictor("multiclass"), large=100)
    masks = [tifffile.imread(tmp_path / "out" / name) for name in ("p.tif", "q.tif")]
    assert np.array_equal(masks[0], predictor("multiclass")(IMAGE))
    assert np.array_equal(masks[1], masks[0][::-1])


def test_other_kinds_of_output_are_refused():
    with pytest.raises(InputError, match="probabilities.*npz, png.*jpg"):
        Outputs(probabilities="jpg")
    with pytest.raises(InputError, match="polygons.*coco, geojson.*shp"):
        Outputs(polygons="shp")


def test_large_images_give_the_values_of_small_ones_as_tiff(tmp_path):
    place = [
        (33550, "d", 3, (10.0, 10.0, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, 1000.0, 2000.0, 0.0), True),
    ]
    (tmp_path / "in").mkdir()
    tifffile.imwrite(
        tmp_path / "in" / "p.tif",
        IMAGE,
        photometric="rgb",
        tile=(16, 16),
        compression="zlib",
        extratags=place,
    )
    for task in ("multiclass", "multilabel"):
        model = predictor(task, tile=(16, 32), flips=2)
        for kind in ("npz", "png"):
            small, large = tmp_path / f"small_{task}_{kind}", tmp_path / f"large_{task}_{kind}"
            outputs = Outputs(probabilities=kind, uncertainty=True, polygons="geojson")
            predict(tmp_path / "in", small, model, outputs=outputs)
            predict(tmp_path / "in", large, model, outputs=outputs, large=100)
            assert predict(
                tmp_path / "in", large, model, outputs=outputs, large=100, skip_existing=True
            ).skipped
            assert (small / "polygons" / "p.geojson").read_text() == (
                large / "polygons" / "p.geojson"
            ).read_text()
            for folder in ("red", "a_b", "red_") if task == "multilabel" else ("",):
                assert np.array_equal(
                    tifffile.imread(large / folder / "p.tif"),
                    np.asarray(Image.open(small / folder / "p.png")),
                )
            for index, folder in enumerate(("red", "a_b", "red_")):
                stored = tifffile.imread(large / "probabilities" / folder / "p.tif")
                if kind == "npz":
                    assert np.array_equal(
                        stored, np.load(small / "probabilities" / "p.npz")["probabilities"][index]
                    )
                else:
                    assert np.array_equal(
                        stored, np.asarray(Image.open(small / "probabilities" / folder / "p.png"))
                    )
            assert np.array_equal(
                tifffile.imread(large / "uncertainty" / "p.tif"),
                np.asarray(Image.open(small / "uncertainty" / "p.png")),
            )
    with tifffile.TiffFile(large / "red" / "p.tif") as file:
        assert file.pages[0].tags[33922].value[3:5] == (1000.0, 2000.0)
    assert torch.is_inference_mode_enabled() is False

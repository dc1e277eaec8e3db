import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import nn

from kanseg.data import Preprocess
from kanseg.export.check import compare, expected, read_images
from kanseg.export.network import Deployed
from kanseg.inference.exported import ExportedNetwork
from kanseg.utils.errors import InputError

PREPROCESS = Preprocess(3, (0.5,) * 3, (0.25,) * 3, 0.5)


def compared(change, task="multiclass", output="logits", **options):
    """A network with itself, changed."""
    torch.manual_seed(0)
    model = nn.Conv2d(3, 1 if task == "binary" else 3, 3, padding=1).eval()
    graph = Deployed(model, PREPROCESS, task, output).eval()
    description = {"preprocess": {"channels": 3}, "labels": {"task": task}, "output": output}

    def run(images):
        with torch.no_grad():
            return change(graph(images))

    return compare(
        ExportedNetwork(run, description, "x"),
        model,
        PREPROCESS,
        read_images(None, PREPROCESS, 3),
        **options,
    )


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("output", ["logits", "probabilities", "labels"])
def test_the_same_network_agrees(task, output):
    found = compared(lambda y: y, task, output)
    assert found.differing == 0
    assert found.probability is None if output == "labels" else found.probability < 1e-5


def test_all_sizes_and_batches_are_shown():
    found = compared(lambda y: y)
    assert found.batches == ("1x63x61", "3x63x61", "1x128x160", "3x128x160", "1x96x96", "3x96x96")
    assert found.pixels == 4 * (63 * 61 + 128 * 160 + 96 * 96)
    assert compared(lambda y: y, batch=2, image_size=(8, 9)).batches == ("2x8x9",)


def test_another_network_does_not_agree():
    found = compared(lambda y: y.flip(1), "multilabel")
    assert found.probability > 0.01
    assert found.differing > 0.01


def test_what_is_not_finite_is_infinitely_far():
    assert compared(lambda y: torch.where(y > y.mean(), torch.nan, y)).probability == float("inf")


def test_share_of_labels_that_differ():
    def one_row_wrong(labels):
        labels = labels.clone()
        labels[:, 0] = 7
        return labels

    rows = 4 * (61 + 160 + 96)
    assert compared(one_row_wrong, output="labels").differing == pytest.approx(
        rows / (4 * (63 * 61 + 128 * 160 + 96 * 96))
    )


def test_images_of_a_folder_are_read_as_the_network_sees_them(tmp_path):
    for i in range(5):
        Image.fromarray(np.full((300, 40), 51 * i, np.uint8)).save(tmp_path / f"{i}.png")
    own = read_images(str(tmp_path), PREPROCESS, 3)
    assert [image.shape for image in own] == [(256, 40, 3)] * 3
    assert [image.max() for image in own] == pytest.approx([0, 0.4, 0.8])
    assert read_images(str(tmp_path), Preprocess(1, resize=(8, 9)), 9)[4].shape == (8, 9, 1)


def test_a_folder_without_images_is_told(tmp_path):
    with pytest.raises(InputError, match="no file, no folder with images"):
        read_images(str(tmp_path), PREPROCESS, 3)


def test_a_damaged_image_is_reported_and_skipped(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=tmp_path.name):
        read_images(str(tmp_path), PREPROCESS, 2, log=lambda line: None)
    Image.fromarray(np.full((8, 9), 51, np.uint8)).save(tmp_path / "b.png")
    lines = []
    assert len(read_images(str(tmp_path), PREPROCESS, 2, log=lines.append)) == 1
    assert len(lines) == 1
    assert "a.png" in lines[0]


@pytest.mark.parametrize("gamma", [0.5, 1.0])
def test_a_network_of_floats_takes_its_images_as_they_are(gamma, tmp_path):
    step = Preprocess(3, (0.5,) * 3, (0.25,) * 3, gamma, floats=True)
    values = np.random.default_rng(0).random((20, 30, 3), dtype=np.float32)
    tifffile.imwrite(tmp_path / "a.tif", values)
    found = read_images(str(tmp_path), step, 1)
    np.testing.assert_array_equal(found[0], values)
    torch.testing.assert_close(
        expected(nn.Identity(), step, "multiclass", found), torch.softmax(step(values)[None], dim=1)
    )

import numpy as np
import pytest
import torch
from PIL import Image

from kanseg.data import LabelSpec, Preprocess, Sample, SegmentationDataset, read_folder
from kanseg.data.overlay import MISSED, WRONG
from kanseg.visualization.panels import (
    draw_results,
    extremes,
    image_scores,
    sample_cells,
    sample_grid,
)

CELLS = [np.zeros((32, 32, 3), np.uint8)] * 4


class Thresholds(torch.nn.Module):
    """Foreground where the image is bright; counts what it is shown."""

    shown = 0

    def forward(self, x):
        self.shown += len(x)
        return x.mean(dim=1, keepdim=True)


@pytest.fixture
def dataset(folder):
    opened = read_folder(folder)
    return SegmentationDataset(
        [*opened.samples("train"), *opened.samples("val")], opened.label_spec, Preprocess()
    )


def test_missed_pixels_are_blue_other_errors_red_ignored_pixels_gray_and_the_rest_dim():
    image = np.full((1, 3, 3), 200, np.uint8)
    target, predicted = np.array([[0, 1, 255]], np.uint8), np.array([[0, 0, 1]])
    error = sample_cells(image, target, predicted, [(0, 0, 0), (255, 0, 0)])[3]
    assert error.tolist() == [[[70, 70, 70], [30, 110, 255], [128, 128, 128]]]
    error = sample_cells(image, 1 - target, predicted, [(0, 0, 0), (255, 0, 0)])[3]
    assert error[0, 1].tolist() == [70, 70, 70]
    error = sample_cells(image, target, predicted, [(0, 0, 0)] * 3)[3]
    assert error[0, 1].tolist() == [230, 30, 60]


def test_few_multilabel_classes_have_an_error_image_each():
    image = np.full((1, 2, 3), 200, np.uint8)
    target, predicted = np.array([[[1, 0]], [[0, 1]]]), np.array([[[0, 0]], [[1, 1]]])
    colors = [(9, 9, 9), (8, 8, 8)]
    cells = sample_cells(image, target, predicted, colors)
    assert [cell[0, 0].tolist() for cell in cells[3:]] == [list(WRONG), list(MISSED), list(WRONG)]
    assert len(sample_cells(image, target[:1], predicted[:1], colors[:1])) == 4
    assert sample_cells(image, target[:1], predicted[:1], colors[:1])[3][0, 0].tolist() == list(
        MISSED
    )
    assert len(sample_cells(image, target[[0] * 4], predicted[[0] * 4], colors * 2)) == 4
    assert sample_grid([cells], ["x"], ["a", "b"], colors).shape[1] > 6 * 256


def test_grids_have_a_row_for_each_sample_and_a_legend():
    one, two = (
        sample_grid([CELLS] * n, ["a"] * n, ["x", "y"], [(1, 2, 3), (9, 200, 9)]) for n in (1, 2)
    )
    assert two.shape[0] - one.shape[0] == 256 + 2 * 22 + 4
    assert (two.reshape(-1, 3) == (9, 200, 9)).all(axis=1).sum() > 100  # the legend shows the color


def test_many_classes_wrap_in_the_legend():
    names = [f"a_long_class_name_{i}" for i in range(30)]
    assert (
        sample_grid([CELLS], ["a"], names, [(i, i, i) for i in range(30)]).shape[1]
        == sample_grid([CELLS], ["a"], ["x"], [(0, 0, 0)]).shape[1]
    )


def test_the_score_of_an_image_is_the_mean_iou_of_the_foreground_classes_in_it():
    per_image = {3: np.array([[2, 1, 0], [1, 0, 0], [0, 0, 0]]), 5: np.zeros((3, 3), int)}
    scores = image_scores(per_image, [0, 1, 2])
    assert scores[3] == pytest.approx((2 / 4 + 0 / 2) / 2)
    assert np.isnan(scores[5])
    assert image_scores(per_image, [1, 2])[3] == 0
    assert np.isnan(image_scores({0: np.array([[4, 0], [0, 0]])}, [1])[0])  # background alone
    assert image_scores({0: np.array([[[5, 1], [1, 2]], [[9, 0], [0, 0]]])}, [0, 1]) == {
        0: pytest.approx(2 / 4)
    }  # multilabel, the second class absent


def test_the_worst_come_worst_first_and_the_best_best_first_without_nan():
    scores = {0: 0.5, 1: float("nan"), 2: 0.1, 3: 0.9, 4: 0.3, 5: 0.7}
    assert extremes(scores, 2) == ([2, 4], [3, 5])
    assert extremes(scores, 6) == ([2, 4], [3, 5])  # none in both
    assert extremes({7: 0.4, 8: float("nan")}, 6) == ([7], [7])
    assert extremes({7: float("nan")}, 6) == ([], [])
    assert extremes({}, 6) == ([], [])


def test_each_image_is_predicted_once_and_only_if_it_is_shown(dataset, tmp_path):
    model = Thresholds()
    matrices = {i: np.array([[9, 4 - i], [0, 9]]) for i in range(len(dataset))}
    written = draw_results(model, dataset, tmp_path, per_image=matrices, count=1)
    assert model.shown == 2  # the first sample is the worst one too
    assert [path.name for path in written] == [
        "overview.png",
        "worst.png",
        "best.png",
        "confusion.png",
        "samples",
    ]
    assert [path.stem for path in (tmp_path / "samples").iterdir()] == [dataset.samples[0].name]
    assert all(Image.open(path).width > 900 for path in written[:3])


def test_without_scores_there_are_samples_only_and_without_panels_the_confusion_only(
    dataset, tmp_path
):
    assert [path.name for path in draw_results(Thresholds(), dataset, tmp_path / "a", count=9)] == [
        "overview.png",
        "samples",
    ]
    assert len(list((tmp_path / "a" / "samples").iterdir())) == len(dataset)
    assert [
        path.name
        for path in draw_results(
            Thresholds(), dataset, tmp_path / "b", per_image={0: np.eye(2, dtype=int)}, count=0
        )
    ] == ["confusion.png"]


def test_images_without_a_class_in_them_are_in_no_gallery(dataset, tmp_path):
    written = draw_results(
        Thresholds(),
        dataset,
        tmp_path,
        per_image={i: np.zeros((2, 2), int) for i in range(len(dataset))},
        count=2,
    )
    assert [path.name for path in written] == ["overview.png", "confusion.png", "samples"]


def test_the_model_is_left_in_its_mode(dataset, tmp_path):
    model = Thresholds().train()
    draw_results(model, dataset, tmp_path, count=1)
    assert model.training


class Overlapping:
    """A data set of one multilabel image."""

    label_spec, preprocess = LabelSpec("multilabel", ("a", "b")), Preprocess()

    def __init__(self, folder):
        self.samples = [Sample("x", next((folder / "images").iterdir()), None)]

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return {
            "image": torch.zeros(3, 32, 40),
            "mask": torch.ones(2, 32, 40, dtype=torch.int64),
            "index": index,
        }


def test_multilabel_sets_are_drawn(folder, tmp_path):
    def both(x):
        return torch.cat([x[:, :1] + 1, x[:, :1] - 1], dim=1)

    model = torch.nn.Identity()
    model.forward = both
    written = draw_results(
        model,
        Overlapping(folder),
        tmp_path,
        per_image={0: np.array([[[0, 0], [0, 1280]], [[0, 0], [1280, 0]]])},
        count=1,
    )
    assert [path.name for path in written] == [
        "overview.png",
        "worst.png",
        "best.png",
        "confusion.png",
        "samples",
    ]
    drawn = np.asarray(Image.open(tmp_path / "overview.png"))
    width = 6 * 40 + 4
    error, a, b = (tuple(drawn[22 + 90, 4 + column * width + 100]) for column in (3, 4, 5))
    assert error == WRONG
    assert max(a) < 100  # nothing but the dimmed image
    assert b == MISSED

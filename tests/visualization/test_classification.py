import numpy as np
import pytest
import torch
from PIL import Image

from kanseg.metrics import ClassificationMetrics
from kanseg.visualization.classification import (
    CELL,
    RIGHT,
    WRONG,
    draw_confusion,
    draw_predictions,
    surest_mistakes,
)


def result(classes, names=None):
    metrics = ClassificationMetrics(names or [f"class {i}" for i in range(classes)])
    labels = torch.arange(3 * classes) % classes
    metrics.update(torch.randn(len(labels), classes), labels)
    return metrics.compute()


def test_confusion_matrices_grow_with_the_classes_until_names_would_not_fit(tmp_path):
    sizes = [
        Image.open(draw_confusion(result(n), tmp_path / "new" / f"{n}.png")).width
        for n in (2, 12, 60)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < 700
    assert sizes[2] > 1300
    assert [path.name for path in sorted((tmp_path / "new").iterdir())] == [
        "12.png",
        "2.png",
        "60.png",
    ]  # nothing half-written is left


def test_a_right_matrix_is_dark_on_the_diagonal(tmp_path):
    metrics = ClassificationMetrics(["a", "a name that is much too long for the axis of an image"])
    metrics.update(10 * torch.eye(2), torch.arange(2))
    shown = np.asarray(
        Image.open(draw_confusion(metrics.compute(), tmp_path / "a.png")).convert("L")
    ).astype(int)
    assert (shown < 60).sum() > 8000  # two dark cells of about 80 x 80 pixels


def has(image, color):
    return int((image.reshape(-1, 3) == color).all(axis=1).sum())


def test_wrong_predictions_are_framed_in_red(tmp_path):
    images = [
        np.full((8, 8, 3), 90, np.uint8),
        np.full((9, 5, 1), 60, np.uint16),
        np.full((400, 300, 3), 30, np.uint8),
    ]
    one, all_right = (
        np.asarray(
            Image.open(
                draw_predictions(
                    images,
                    [0, 1, 1],
                    guesses,
                    [0.9, 0.8, 0.7],
                    ["cat", "x" * 60],
                    tmp_path / "p.png",
                )
            )
        )
        for guesses in ([0, 1, 0], [0, 1, 1])
    )
    assert has(all_right, WRONG) == 0
    assert has(one, WRONG) > 4 * CELL
    assert has(one, RIGHT) > 0
    assert one.shape == all_right.shape


def test_probabilities_of_all_classes_serve_too(tmp_path):
    images = [np.full((8, 8, 3), 90, np.uint8)] * 3
    full = np.array([[0.2, 0.8], [0.7, 0.3], [0.6, 0.4]])
    sheets = [
        Image.open(
            draw_predictions(
                images, [1, 0, 0], [1, 0, 0], p, ["a", "b"], tmp_path / f"{i}.png", columns=2
            )
        ).tobytes()
        for i, p in enumerate((full, full.max(axis=1)))
    ]
    assert sheets[0] == sheets[1]
    with pytest.raises(ValueError, match="at least one image"):
        draw_predictions([], [], [], [], ["a"], tmp_path / "none.png")


def test_mistakes_come_surest_first():
    metrics = ClassificationMetrics(["a", "b"])
    metrics.update(
        torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 9.0], [0.0, 2.0]]),
        torch.tensor([1, 1, 1, 0]),
        [7, 5, 3, 1],
    )
    assert surest_mistakes(metrics.per_image, 9) == [5, 1, 7]
    assert surest_mistakes(metrics.per_image, 1) == [5]

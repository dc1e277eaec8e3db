import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics

from kanseg.evaluation.tables import table
from kanseg.metrics import SegmentationMetrics, SurfaceOptions, confusion_matrices
from kanseg.training.run_folder.logging import plain


def images(count=7, classes=4):
    target = torch.randint(classes, (count, 9, 8))
    predicted = torch.where(
        torch.rand(count, 9, 8) < 0.6, target, torch.randint(classes, (count, 9, 8))
    )
    target[torch.rand(count, 9, 8) < 0.1] = 255
    return predicted, target


def measured(predicted, target, names="abcd", order=None, batch=3):
    metrics = SegmentationMetrics(list(names))
    order = torch.arange(len(target)) if order is None else order
    for part in order.split(batch):
        metrics.update(predicted[part], target[part], part.tolist())
    return metrics.compute()


def test_scores_over_the_set_are_scikit_learns():
    predicted, target = images()
    y, p = target[target != 255].numpy(), predicted[target != 255].numpy()
    result = measured(predicted, target)
    for name, function in (
        ("iou", sklearn_metrics.jaccard_score),
        ("dice", sklearn_metrics.f1_score),
        ("precision", sklearn_metrics.precision_score),
        ("recall", sklearn_metrics.recall_score),
    ):
        expected = function(y, p, average=None)
        np.testing.assert_allclose(
            [row[name] for row in result["classes"].values()], expected, atol=1e-12
        )
        assert abs(result[f"mean_{name}"] - expected.mean()) < 1e-12


def test_per_image_scores_are_means_over_images():
    predicted, target = images()
    each = [
        sklearn_metrics.jaccard_score(t[t != 255], p[t != 255], average=None)
        for p, t in zip(predicted.numpy(), target.numpy(), strict=True)
    ]
    result = measured(predicted, target)["per_image"]
    assert abs(result["mean_iou"] - np.mean([e.mean() for e in each])) < 1e-12
    np.testing.assert_allclose(
        [row["iou"] for row in result["classes"].values()], np.mean(each, axis=0), atol=1e-12
    )


def test_batch_size_and_order_do_not_matter():
    predicted, target = images()
    reference = measured(predicted, target)
    for batch in (1, 2, 7):
        assert measured(predicted, target, order=torch.randperm(7), batch=batch) == reference


def test_worked_out_by_hand():
    target = torch.tensor([[[1, 1, 0, 0]], [[0, 0, 0, 255]]])
    predicted = torch.tensor([[[1, 0, 1, 0]], [[0, 0, 0, 1]]])
    result = measured(predicted, target, names="ab")
    assert result["classes"]["b"] == {
        "iou": 1 / 3,
        "dice": 0.5,
        "precision": 0.5,
        "recall": 0.5,
        "specificity": 4 / 5,
        "pixels": 2,
        "absent": 1,
    }
    assert (
        result["per_image"]["classes"]["b"]["iou"] == 1 / 3
    )  # the second image has no b: left out, not 1
    assert result["per_image"]["classes"]["a"]["iou"] == (1 / 3 + 1) / 2
    assert result["per_image"]["mean_iou"] == (1 / 3 + 1) / 2
    assert result["accuracy"] == 5 / 7


@pytest.mark.parametrize(
    ("classes", "task", "background"),
    [
        (["cell", "wall"], "binary", "cell"),
        (["Background", "a", "b"], "multiclass", "Background"),
        (["class_0", "class_1", "class_2"], "multiclass", "class_0"),
        (["背景", "a", "b"], "multiclass", "背景"),
        (["sky", "tree", "car"], "multiclass", None),
    ],
)
def test_the_foreground_is_all_classes_but_a_background(classes, task, background):
    target = torch.randint(len(classes), (2, 9, 8))
    predicted = torch.randint(len(classes), (2, 9, 8))
    metrics = SegmentationMetrics(classes, task)
    metrics.update(predicted, target)
    result = metrics.compute()
    objects = [name for name in classes if name != background]
    assert result["background"] == background
    for scores in (result, result["per_image"]):
        for name in ("iou", "dice"):
            each = [scores["classes"][label][name] for label in objects]
            assert scores[f"foreground_{name}"] == pytest.approx(np.mean(each), abs=1e-9)


def test_an_absent_class_is_nan_and_left_out_of_the_mean():
    target = torch.zeros(2, 3, 3, dtype=torch.long)
    result = measured(target, target, names="abc")
    assert math.isnan(result["classes"]["c"]["iou"])
    assert result["classes"]["c"]["absent"] == 2
    assert result["mean_iou"] == 1.0


def test_a_missed_class_scores_zero_and_not_nan():
    target = torch.tensor([[[0, 1]]])
    result = measured(torch.zeros_like(target), target, names="ab")
    assert result["classes"]["b"]["iou"] == 0
    assert math.isnan(result["classes"]["b"]["precision"])


def test_parts_of_several_processes_add_up():
    predicted, target = images()
    whole = measured(predicted, target)
    parts = [SegmentationMetrics("abcd") for _ in range(2)]
    for rank, part in enumerate(parts):
        mine = torch.arange(rank, 7, 2)
        part.update(predicted[mine], target[mine], mine.tolist())
    parts[0].merge(parts[1].per_image)
    assert parts[0].compute() == whole


def test_confusion_matrix_has_target_in_rows():
    matrix = confusion_matrices(torch.tensor([[[1, 1]]]), torch.tensor([[[0, 1]]]), 2)
    assert matrix.tolist() == [[[0, 1], [0, 1]]]


def test_table_shows_absent_classes_as_a_dash():
    target = torch.zeros(2, 3, 3, dtype=torch.long)
    lines = table(measured(target, target, names=["land", "lake"])).splitlines()
    assert lines[1].split()[:2] == ["land", "1.0000"]
    assert lines[2].split() == ["lake", "-", "-", "-", "-", "1.0000", "-", "-", "2/2"]


@pytest.mark.parametrize("count", [0, 1])
def test_few_images_are_no_error(count):
    target = torch.zeros(count, 2, 2, dtype=torch.long)
    assert measured(target, target, names="ab")["images"] == count


def test_specificity_is_the_recall_of_everything_else():
    predicted, target = images()
    y, p = target[target != 255].numpy(), predicted[target != 255].numpy()
    expected = [sklearn_metrics.recall_score(y != c, p != c) for c in range(4)]
    np.testing.assert_allclose(
        [row["specificity"] for row in measured(predicted, target)["classes"].values()], expected
    )


class TestMultilabel:
    def labels(self, count=5, classes=3):
        target = torch.randint(2, (count, classes, 9, 8))
        predicted = torch.where(torch.rand(target.shape) < 0.6, target, 1 - target)
        return predicted, target

    def compute(self, predicted, target, **options):
        metrics = SegmentationMetrics("abc"[: target.shape[1]], "multilabel", **options)
        metrics.update(predicted, target)
        return metrics.compute()

    def test_scores_are_scikit_learns(self):
        predicted, target = self.labels()
        y, p = (part.permute(0, 2, 3, 1).reshape(-1, 3).numpy() for part in (target, predicted))
        result = self.compute(predicted, target)
        for name, function in (
            ("iou", sklearn_metrics.jaccard_score),
            ("dice", sklearn_metrics.f1_score),
            ("precision", sklearn_metrics.precision_score),
        ):
            expected = function(y, p, average=None)
            np.testing.assert_allclose(
                [row[name] for row in result["classes"].values()], expected, atol=1e-12
            )
            assert abs(result[f"mean_{name}"] - expected.mean()) < 1e-12
        assert result["confusion"] == sklearn_metrics.multilabel_confusion_matrix(y, p).tolist()
        assert abs(result["accuracy"] - (y == p).mean()) < 1e-12

    def test_each_class_leaves_out_its_own_pixels(self):
        predicted, target = self.labels()
        ignored = torch.rand(target.shape) < 0.3
        target[ignored] = 255
        result = self.compute(predicted, target)
        for i, row in enumerate(result["classes"].values()):
            used = target[:, i] != 255
            assert (
                abs(
                    row["iou"]
                    - sklearn_metrics.jaccard_score(target[:, i][used], predicted[:, i][used])
                )
                < 1e-12
            )
            assert row["pixels"] == (target[:, i] == 1).sum()

    def test_one_label_scores_as_the_foreground_of_a_binary_task(self):
        predicted, target = self.labels(classes=1)
        single = self.compute(predicted, target, surface=SurfaceOptions())
        metrics = SegmentationMetrics(["background", "a"], "binary", surface=SurfaceOptions())
        metrics.update(predicted[:, 0], target[:, 0])
        assert single["classes"]["a"] == metrics.compute()["classes"]["a"]
        assert single["per_image"]["classes"]["a"] == metrics.compute()["per_image"]["classes"]["a"]


class TestSurfaces:
    def squares(self):
        """A class that is found one column off, missed, in neither, and made up."""
        target, predicted = (
            torch.zeros(4, 20, 30, dtype=torch.long),
            torch.zeros(4, 20, 30, dtype=torch.long),
        )
        target[0, 4:9, 4:9] = predicted[0, 4:9, 5:10] = 1
        target[1, 4:9, 4:9] = 1
        predicted[3, 4:9, 4:9] = 1
        return predicted, target

    def metrics(self, tolerance=0.0, order=range(4)):
        predicted, target = self.squares()
        metrics = SegmentationMetrics("ab", "binary", surface=SurfaceOptions(tolerance))
        for i in order:
            metrics.update(predicted[i : i + 1], target[i : i + 1], [i])
        return metrics

    def test_missed_and_made_up_objects_cost_the_diagonal_and_what_is_in_neither_is_counted(self):
        per_image = self.metrics().compute()["per_image"]
        diagonal = math.hypot(20, 30)
        assert per_image["classes"]["b"]["hd"] == pytest.approx((1 + diagonal + diagonal) / 3)
        assert per_image["classes"]["b"]["unmeasured"] == 1
        assert per_image["mean_hd"] == per_image["classes"]["b"]["hd"]

    def test_a_background_has_no_surface(self):
        per_image = self.metrics().compute()["per_image"]
        assert math.isnan(per_image["classes"]["a"]["hd95"])
        assert "unmeasured" not in per_image["classes"]["a"]

    def test_boundary_iou_over_the_set_adds_up_pixels(self):
        """Rings of 16 pixels: 8 in common in the first image, one missed, one made up."""
        result = self.metrics().compute()
        assert result["classes"]["b"]["boundary_iou"] == 8 / (24 + 16 + 16)
        assert result["per_image"]["classes"]["b"]["boundary_iou"] == pytest.approx(
            (8 / 24 + 0 + 0) / 3
        )

    def test_order_and_processes_do_not_matter(self):
        reference = plain(self.metrics().compute())
        assert plain(self.metrics(order=(3, 1, 0, 2)).compute()) == reference
        first, second = self.metrics(order=(0, 2)), self.metrics(order=(1, 3))
        first.merge(second.per_image)
        first.merge(second.per_image)  # an image that comes twice counts once
        assert plain(first.compute()) == reference

    def test_a_spacing_a_image(self):
        predicted, target = self.squares()
        metrics = SegmentationMetrics("ab", surface=SurfaceOptions(0.0, (1.0, 1.0)))
        metrics.update(predicted[:1], target[:1], spacings=[(1.0, 0.25)])
        assert metrics.compute()["per_image"]["classes"]["b"]["hd"] == 0.25


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_no_images_are_no_error_with_surfaces_either(task):
    assert SegmentationMetrics("ab", task, surface=SurfaceOptions()).compute()["images"] == 0

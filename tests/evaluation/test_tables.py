import csv
import io

import pytest
import torch

from kanseg.evaluation.tables import image_table, table
from kanseg.metrics import SegmentationMetrics, SurfaceOptions


def measured():
    """Two images: one with the class, found one column off, one without it."""
    target, predicted = (
        torch.zeros(2, 20, 30, dtype=torch.long),
        torch.zeros(2, 20, 30, dtype=torch.long),
    )
    target[0, 4:9, 4:9] = predicted[0, 4:9, 5:10] = 1
    foreground = predicted * 0.8 + 0.1
    metrics = SegmentationMetrics(
        ["background", "cell, round"], "binary", surface=SurfaceOptions(tolerance=1.0)
    )
    for i in (1, 0):
        one = slice(i, i + 1)
        metrics.update(
            predicted[one],
            target[one],
            [i],
            probabilities=torch.stack([1 - foreground, foreground], dim=1)[one],
        )
    return metrics


def rows(metrics=None):
    return list(
        csv.DictReader(io.StringIO(image_table(metrics or measured(), ["first", "second"])))
    )


def test_every_image_has_its_line_in_order():
    assert [row["name"] for row in rows()] == ["first", "second"]


def test_scores_are_those_of_the_image():
    row = rows()[0]
    assert float(row["cell, round/iou"]) == pytest.approx(20 / 30, abs=1e-6)
    assert (float(row["cell, round/hd95"]), float(row["cell, round/nsd"])) == (1.0, 1.0)
    assert float(row["mean/iou"]) == pytest.approx((20 / 30 + 570 / 580) / 2, abs=1e-6)


def test_what_is_undefined_is_empty():
    row = rows()[1]
    assert row["cell, round/iou"] == row["cell, round/hd95"] == row["mean/hd95"] == ""
    assert float(row["mean/iou"]) == 1.0


def test_a_background_has_no_columns_of_distances():
    assert "background/iou" in rows()[0]
    assert "background/hd95" not in rows()[0]


def test_means_of_the_columns_are_the_scores_per_image():
    result = measured().compute()["per_image"]
    assert sum(float(row["ece"]) for row in rows()) / 2 == pytest.approx(
        result["mean_ece"], abs=1e-5
    )
    assert sum(float(row["mean/dice"]) for row in rows()) / 2 == pytest.approx(
        result["mean_dice"], abs=1e-5
    )


def test_no_images_leave_the_header_alone():
    text = image_table(SegmentationMetrics("ab"), [])
    assert text.startswith("name,a/iou,a/dice,a/precision,a/recall,a/specificity,b/iou")
    assert text.count("\n") == 1


def test_the_text_table_shows_distances_and_calibration_where_they_are():
    result = measured().compute()
    text = table(result | {"u_kan": {"batch_size": 8, "iou": 0.5, "dice": 2 / 3}})
    assert "hd95/image" in text
    assert "nsd/image" in text
    assert "calibration error 0.0917" in text
    assert "U-KAN's protocol (mean over batches of 8): IoU 0.5000, Dice 0.6667" in text
    assert "hd95" not in table(SegmentationMetrics("ab").compute())


def test_names_that_a_spreadsheet_would_take_for_formulas_are_texts():
    text = image_table(measured(), ["=1+2", "second"])
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["name"] for row in rows] == ["'=1+2", "second"]
    float(rows[0]["mean/iou"])


def test_objects_come_before_the_background_and_have_a_mean_of_their_own():
    metrics = SegmentationMetrics(["background", "a", "b"], "multiclass")
    metrics.update(torch.tensor([[[0, 1, 2, 2]]]), torch.tensor([[[0, 1, 1, 2]]]))
    names = [line.split("  ")[0] for line in table(metrics.compute()).splitlines()[1:]]
    assert names == ["a", "b", "mean of objects", "background", "mean of all"]
    line = next(x for x in table(metrics.compute()).splitlines() if x.startswith("mean of objects"))
    assert line.split()[3:5] == ["0.5000", "0.6667"]  # IoU 1/2 and 1/2, Dice 2/3 and 2/3
    binary = table(measured().compute()).splitlines()
    assert [binary[1].split()[0], binary[2].split()[0]] == ["cell,", "background"]

import numpy as np
import pytest

from kanseg.data.splits.record import SPLIT, Content, SplitRecord
from kanseg.experiments.cross_validation.report import flatten_spread, images_csv
from kanseg.experiments.cross_validation.results import (
    FoldRun,
    changes_between,
    classified_out_of_fold,
    segmented_out_of_fold,
    spread,
)
from kanseg.utils.errors import InputError


def run_of(confusion, images, absent=0, folder=None):
    """A fold of two classes, a and b."""
    classes = {"a": {"absent": 0}, "b": {"absent": absent}}
    val = {"confusion": confusion, "images": len(images), "classes": classes}
    rows = [
        {"name": f"x{i}", "a/iou": "1", "b/iou": iou, "mean/iou": "0.5"}
        for i, iou in enumerate(images)
    ]
    return FoldRun(folder, {"val": val}, rows)


def test_mean_and_deviation_of_nested_scores_by_hand():
    found = spread(
        [
            {"iou": 0.5, "images": 3, "classes": {"b": {"iou": 0.2}}, "confusion": [[1]]},
            {"iou": 0.7, "images": 4, "classes": {"b": {"iou": None}}, "confusion": [[2]]},
            {"iou": 0.9, "images": 5, "classes": {"b": {"iou": 0.4}}, "confusion": [[3]]},
        ]
    )
    assert found.keys() == {"iou", "classes"}
    assert found["iou"] == pytest.approx({"mean": 0.7, "std": 0.2, "folds": 3})
    expected = {"mean": 0.3, "std": np.sqrt(0.02), "folds": 2}
    assert flatten_spread(found)["classes.b.iou"] == pytest.approx(expected)


def test_a_score_of_a_single_fold_has_no_deviation():
    found = spread([{"iou": None}, {"iou": 0.5}])["iou"]
    assert (found["mean"], found["folds"]) == (0.5, 1)
    assert np.isnan(found["std"])


def test_pixels_of_all_folds_are_counted_together_by_hand():
    runs = [
        run_of([[8, 2], [0, 0]], ["0", ""], absent=1),  # b is only predicted wrongly
        run_of([[4, 1], [2, 3]], ["0.5"]),
    ]
    found = segmented_out_of_fold(runs, ["a", "b"], "multiclass")
    # a: 12 right, 3 missed, 2 wrong; b: 3 right, 2 missed, 3 wrong
    assert found["classes"]["a"]["iou"] == pytest.approx(12 / 17)
    assert found["classes"]["b"]["iou"] == pytest.approx(3 / 8)
    assert found["mean_iou"] == pytest.approx((12 / 17 + 3 / 8) / 2)
    assert found["images"] == 3
    assert found["classes"]["b"]["absent"] == 1
    # the image without a score is left out
    assert found["per_image"]["classes"]["b"]["iou"] == pytest.approx(0.25)


def test_a_class_that_a_fold_lacks_is_scored_by_the_others():
    runs = [run_of([[5, 0], [0, 0]], [""], absent=1), run_of([[5, 1], [1, 3]], ["0.6"])]
    assert segmented_out_of_fold(runs, ["a", "b"], "binary")["foreground_iou"] == pytest.approx(
        3 / 5
    )


def test_a_run_without_its_table_of_images_says_what_writes_it(tmp_path):
    with pytest.raises(InputError, match="scores_val.csv is missing; `kanseg evaluate"):
        segmented_out_of_fold([run_of([[5, 1], [1, 3]], [], folder=tmp_path)], ["a", "b"], "binary")


def test_labels_of_all_folds_are_counted_together_by_hand():
    runs = []
    for confusion, images, top5 in (([[3, 1], [0, 2]], 6, 0.5), ([[1, 0], [1, 0]], 2, 1.0)):
        val = {"confusion": confusion, "images": images, "top5": top5}
        runs.append(FoldRun(None, {"val": val}, []))
    found = classified_out_of_fold(runs, ["a", "b"])
    assert found["top1"] == pytest.approx(6 / 8)
    assert found["classes"]["a"]["recall"] == pytest.approx(4 / 5)
    assert found["classes"]["b"]["precision"] == pytest.approx(2 / 3)
    assert found["top5"] == pytest.approx((6 * 0.5 + 2) / 8)


def test_the_table_of_images_names_the_fold_of_each():
    text = images_csv([run_of([[1]], ["0.5"]), run_of([[1]], ["0.25", ""])])
    lines = [line.split(",")[:2] + line.split(",")[3:4] for line in text.splitlines()]
    assert lines == [
        ["name", "fold", "b/iou"],
        ["x0", "0", "0.5"],
        ["x0", "1", "0.25"],
        ["x1", "1", ""],
    ]


def recorded(folder, train, val):
    folder.mkdir()
    splits = {
        "train": {name: Content("0" * 16) for name in train},
        "val": {name: Content("0" * 16) for name in val},
    }
    (folder / SPLIT).write_text(SplitRecord(splits).to_json())
    return FoldRun(folder, {}, [])


def test_images_that_came_between_the_folds_are_reported(tmp_path):
    first = recorded(tmp_path / "a", ["x", "y"], ["z"])
    assert changes_between([first, recorded(tmp_path / "b", ["z"], ["x", "y"])]) == []
    grown = recorded(tmp_path / "c", ["z", "new"], ["x", "y"])
    [line] = changes_between([first, grown])
    assert "1 images are in no fold" in line
    [line] = changes_between([first, recorded(tmp_path / "d", ["y"], ["x", "y", "z"])])
    assert "1 are scored twice" in line

import csv
import json

import numpy as np
import pytest
from scipy.stats import wilcoxon

from kanseg.errors import InputError
from kanseg.training.comparison_results import (
    ArmScores,
    comparison_rows,
    comparison_table,
    difference,
    holm,
    read_arm,
)

RUN = {"parameters": 1000, "multiply_adds": 2000, "cpu_seconds": 3.0}


def arm(pictures, names=None):
    pictures = np.asarray(pictures, dtype=float)
    return ArmScores(
        dict.fromkeys(range(len(pictures)), RUN),
        pictures,
        tuple(names or map(str, range(pictures.shape[1]))),
    )


def write_run(folder, scores, column="disc/iou"):
    folder.mkdir(parents=True)
    with (folder / "scores_test.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([["name", column], *scores.items()])
    (folder / "metrics.json").write_text(json.dumps(RUN))
    return folder


def test_scores_are_read_by_seed_and_picture(tmp_path):
    runs = {
        0: write_run(tmp_path / "a", {"x": 0.5, "y": 0.25}),
        1: write_run(tmp_path / "b", {"y": 0.75, "x": ""}),
    }
    found = read_arm(runs, "test", "disc/iou")
    assert found.names == ("x", "y")
    np.testing.assert_equal(found.pictures, [[0.5, 0.25], [np.nan, 0.75]])


def test_the_mean_of_a_seed_leaves_undefined_pictures_out():
    assert arm([[0.5, np.nan, 1.0]]).by_seed.tolist() == [0.75]


def test_a_missing_table_tells_what_writes_it(tmp_path):
    with pytest.raises(
        InputError, match="scores_test.csv is missing; `python tools/evaluate.py --checkpoint"
    ):
        read_arm({0: tmp_path}, "test", "disc/iou")


def test_an_unknown_score_names_the_nearest(tmp_path):
    with pytest.raises(InputError, match="no score 'disc/iuo'; did you mean 'disc/iou'"):
        read_arm({0: write_run(tmp_path / "a", {"x": 0.5})}, "test", "disc/iuo")


def test_seeds_on_other_pictures_are_refused(tmp_path):
    runs = {0: write_run(tmp_path / "a", {"x": 0.5}), 1: write_run(tmp_path / "b", {"y": 0.5})}
    with pytest.raises(InputError, match="other pictures than those of the other seeds"):
        read_arm(runs, "test", "disc/iou")


def test_the_difference_averages_seeds_first():
    found = difference(arm([[0.2, 0.4], [0.4, 0.8]]), arm([[0.1, 0.1], [0.1, 0.3]]))
    np.testing.assert_allclose(found.values, [0.2, 0.4])
    assert found.mean == pytest.approx(0.3)


def test_pictures_without_a_score_in_one_arm_are_left_out():
    assert difference(
        arm([[0.2, np.nan, 0.4]]), arm([[0.1, 0.5, 0.1]])
    ).values.tolist() == pytest.approx([0.1, 0.3])


def test_p_is_that_of_wilcoxons_test():
    rng = np.random.default_rng(0)
    ours, control = rng.random((3, 40)), rng.random((3, 40))
    assert difference(arm(ours), arm(control)).p == wilcoxon(ours.mean(0), control.mean(0)).pvalue


def test_equal_arms_differ_by_nothing():
    found = difference(arm([[0.2, 0.4]]), arm([[0.2, 0.4]]))
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_the_interval_is_that_of_the_mean():
    values = np.random.default_rng(1).normal(0.1, 0.2, 400)
    found = difference(arm([values]), arm([np.zeros(400)]))
    half = 1.96 * values.std() / 20
    assert found.low == pytest.approx(values.mean() - half, abs=0.003)
    assert found.high == pytest.approx(values.mean() + half, abs=0.003)


def test_arms_on_other_pictures_are_refused():
    with pytest.raises(InputError, match="different pictures"):
        difference(arm([[0.1]], ["a"]), arm([[0.1]], ["b"]))


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1.0, 1.0])


def test_rows_give_the_spread_over_seeds():
    rows = comparison_rows(
        {"gram": arm([[0.5, 0.7], [0.7, 0.9]]), "none": arm([[0.4, 0.6]])}, "none"
    )
    assert [row["arm"] for row in rows] == ["none", "gram"]
    assert rows[1]["mean"] == pytest.approx(0.7)
    assert rows[1]["std"] == pytest.approx(np.std([0.6, 0.8], ddof=1))
    assert np.isnan(rows[0]["std"])
    assert rows[1]["better_in"] == 2


def test_the_table_names_score_and_control():
    rows = comparison_rows({"gram": arm([[0.5, 0.7]]), "none": arm([[0.4, 0.6]])}, "none")
    text = comparison_table(rows, score="disc/iou")
    assert "disc/iou" in text
    assert "minus none" in text
    assert "+0.1000" in text

import csv
import json

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from kanseg.experiments.compare.statistics import (
    VariantScores,
    comparison_rows,
    comparison_table,
    crossed_mean,
    difference,
    holm,
    read_scores,
)
from kanseg.utils.errors import InputError

RUN = {"parameters": 1000, "multiply_adds": 2000, "cpu_seconds": 3.0}


def variant(images, names=None):
    images = np.asarray(images, dtype=float)
    return VariantScores(
        dict.fromkeys(range(len(images)), RUN),
        images,
        tuple(names or map(str, range(images.shape[1]))),
    )


def write_run(folder, scores, column="disc/iou"):
    folder.mkdir(parents=True)
    with (folder / "scores_test.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([["name", column], *scores.items()])
    (folder / "metrics.json").write_text(json.dumps(RUN))
    return folder


def test_scores_are_read_by_seed_and_image(tmp_path):
    runs = {
        0: write_run(tmp_path / "a", {"x": 0.5, "y": 0.25}),
        1: write_run(tmp_path / "b", {"y": 0.75, "x": ""}),
    }
    found = read_scores(runs, "test", "disc/iou")
    assert found.names == ("x", "y")
    np.testing.assert_equal(found.images, [[0.5, 0.25], [np.nan, 0.75]])


def test_the_mean_of_a_seed_leaves_undefined_images_out():
    assert variant([[0.5, np.nan, 1.0]]).by_seed.tolist() == [0.75]


def test_a_missing_table_tells_what_writes_it(tmp_path):
    with pytest.raises(
        InputError, match="scores_test.csv is missing; `kanseg evaluate --checkpoint"
    ):
        read_scores({0: tmp_path}, "test", "disc/iou")


def test_an_unknown_score_names_the_nearest(tmp_path):
    with pytest.raises(InputError, match="no score 'disc/iuo'; did you mean 'disc/iou'"):
        read_scores({0: write_run(tmp_path / "a", {"x": 0.5})}, "test", "disc/iuo")


def test_seeds_on_other_images_are_refused(tmp_path):
    runs = {0: write_run(tmp_path / "a", {"x": 0.5}), 1: write_run(tmp_path / "b", {"y": 0.5})}
    with pytest.raises(InputError, match="other images than those of the other seeds"):
        read_scores(runs, "test", "disc/iou")


def test_the_values_of_a_difference_are_means_over_seeds():
    found = difference(variant([[0.2, 0.4], [0.4, 0.8]]), variant([[0.1, 0.1], [0.1, 0.3]]))
    np.testing.assert_allclose(found.values, [0.2, 0.4])
    assert found.mean == pytest.approx(0.3)


def test_images_without_a_score_in_one_run_are_left_out_and_counted():
    found = difference(
        variant([[0.2, np.nan, 0.4], [0.2, 0.3, 0.4]]), variant([[0.1, 0.5, 0.1], [0.1, 0.5, 0.1]])
    )
    assert found.values.tolist() == pytest.approx([0.1, 0.3])
    assert found.left_out == 1


def test_only_common_seeds_are_compared():
    found = difference(variant([[0.5, 0.7], [0.9, 0.9]]), variant([[0.4, 0.6]]))
    assert found.mean == pytest.approx(0.1)


def test_images_are_matched_by_name():
    found = difference(variant([[0.1, 0.9]], ["a", "b"]), variant([[0.8, 0.1]], ["b", "a"]))
    np.testing.assert_allclose(found.values, [0.0, 0.1])


def test_the_mean_squares_by_hand():
    # Two seeds, three images: mean 2, seeds 1 and 3, images 1, 2 and 3, no residual.
    values = np.array([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]])
    mean, low, high, p = crossed_mean(values)
    # MS_seed = 3 (1 + 1) / 1 = 6, MS_image = 2 (1 + 0 + 1) / 2 = 2; degrees of freedom
    # 8^2 / (6^2 / 1 + 2^2 / 2) = 1.68
    assert mean == 2
    freedom = 64 / 38
    from scipy.stats import t

    error = np.sqrt(8 / 6)
    assert high - mean == pytest.approx(t.ppf(0.975, freedom) * error)
    assert mean - low == pytest.approx(high - mean)
    assert p == pytest.approx(2 * t.sf(2 / error, freedom))


def test_without_an_image_effect_it_is_at_least_as_wide_as_the_t_test_over_seeds():
    seeds = np.random.default_rng(3).normal(size=(5, 1))
    values = seeds + np.zeros((5, 40))
    _, low, high, p = crossed_mean(values)
    expected = ttest_1samp(seeds[:, 0], 0)
    interval = expected.confidence_interval()
    assert (low, high) == pytest.approx((interval.low, interval.high))
    assert p == pytest.approx(expected.pvalue)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1)])
def test_one_seed_or_one_image_has_no_interval(shape):
    mean, *others = crossed_mean(np.arange(5.0).reshape(shape))
    assert mean == 2
    assert np.isnan(others).all()


def test_equal_variants_differ_by_nothing():
    same = variant([[0.2, 0.4], [0.3, 0.5]])
    found = difference(same, same)
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)


@pytest.mark.parametrize(
    ("seed_effect", "image_effect"), [(0.02, 0.08), (0.05, 0.02), (0.0, 0.1), (0.03, 0.0)]
)
def test_the_interval_covers_the_true_difference_in_95_of_100_studies(seed_effect, image_effect):
    rng, inside, studies = np.random.default_rng(0), 0, 1000
    for _ in range(studies):
        values = (
            rng.normal(0, seed_effect, (5, 1))
            + rng.normal(0, image_effect, (1, 60))
            + rng.normal(0, 0.05, (5, 60))
        )
        _, low, high, p = crossed_mean(values)
        inside += low <= 0 <= high
        assert (p > 0.05) == (low <= 0 <= high)
    assert 0.93 <= inside / studies <= 0.99


def test_variants_on_other_images_are_refused():
    with pytest.raises(InputError, match="different images"):
        difference(variant([[0.1]], ["a"]), variant([[0.1]], ["b"]))


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1.0, 1.0])
    np.testing.assert_allclose(holm([0.04, np.nan, 0.01]), [0.04, np.nan, 0.02])


def test_rows_give_the_spread_over_seeds():
    rows = comparison_rows(
        {"gram": variant([[0.5, 0.7], [0.7, 0.9]]), "none": variant([[0.4, 0.6]])}, "none"
    )
    assert [row["variant"] for row in rows] == ["none", "gram"]
    assert rows[1]["mean"] == pytest.approx(0.7)
    assert rows[1]["std"] == pytest.approx(np.std([0.6, 0.8], ddof=1))
    assert np.isnan(rows[0]["std"])
    assert rows[1]["better_in"] == 2


def test_the_table_names_score_and_baseline():
    rows = comparison_rows({"gram": variant([[0.5, 0.7]]), "none": variant([[0.4, 0.6]])}, "none")
    text = comparison_table(rows, score="disc/iou")
    assert "disc/iou" in text
    assert "minus none" in text
    assert "+0.1000" in text

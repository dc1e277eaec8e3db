import csv
import json

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp, ttest_rel

from kanseg.experiments.compare.statistics import (
    VariantScores,
    comparison_rows,
    comparison_table,
    crossed_interval,
    difference,
    few_seeds_note,
    holm,
    mean_interval,
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


def test_a_difference_has_means_over_the_images_and_over_the_seeds():
    found = difference(variant([[0.2, 0.4], [0.4, 0.8]]), variant([[0.1, 0.1], [0.1, 0.3]]))
    np.testing.assert_allclose(found.by_image, [0.2, 0.4])
    np.testing.assert_allclose(found.by_seed, [0.2, 0.4])
    assert found.mean == pytest.approx(0.3)


def test_images_without_a_score_in_one_run_are_left_out_and_counted():
    found = difference(
        variant([[0.2, np.nan, 0.4], [0.2, 0.3, 0.4]]), variant([[0.1, 0.5, 0.1], [0.1, 0.5, 0.1]])
    )
    assert found.by_image.tolist() == pytest.approx([0.1, 0.3])
    assert found.left_out == 1


def test_only_common_seeds_are_compared():
    found = difference(variant([[0.5, 0.7], [0.9, 0.9]]), variant([[0.4, 0.6]]))
    assert found.mean == pytest.approx(0.1)


def test_images_are_matched_by_name():
    found = difference(variant([[0.1, 0.9]], ["a", "b"]), variant([[0.8, 0.1]], ["b", "a"]))
    np.testing.assert_allclose(found.by_image, [0.0, 0.1])


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_over_seeds_is_that_of_the_paired_t_test(seeds):
    rng = np.random.default_rng(seeds)
    mine, theirs = rng.normal(0.7, 0.02, (seeds, 30)), rng.normal(0.68, 0.02, (seeds, 30))
    found = mean_interval(difference(variant(mine), variant(theirs)).by_seed)
    expected = ttest_rel(mine.mean(axis=1), theirs.mean(axis=1))
    interval = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(expected.pvalue)


def test_the_interval_over_three_seeds_by_hand():
    # Mean 0.02, standard deviation 0.01; t of 2 degrees of freedom 4.302653 at 97.5 %.
    found = mean_interval(np.array([0.01, 0.02, 0.03]))
    half = 4.302653 * 0.01 / np.sqrt(3)
    assert (found.low, found.high) == pytest.approx((0.02 - half, 0.02 + half))
    # t = 2 sqrt(3); with 2 degrees of freedom p = 1 - t / sqrt(2 + t^2)
    assert found.p == pytest.approx(1 - np.sqrt(12 / 14))


def test_the_correction_makes_the_intervals_hold_together():
    values = np.array([0.01, 0.02, 0.03, 0.025])
    alone, four = mean_interval(values), mean_interval(values, tests=4)
    low, high = t.interval(1 - 0.05 / 4, 3, values.mean(), values.std(ddof=1) / 2)
    assert (four.low, four.high) == pytest.approx((low, high))
    assert four.p == pytest.approx(4 * alone.p)
    assert mean_interval(np.array([0.1, -0.1, 0.01]), tests=9).p == 1


def test_one_value_has_no_interval():
    assert np.isnan([*vars(mean_interval(np.array([0.5]))).values()]).all()


def test_the_mean_squares_by_hand():
    # Two seeds, three images: mean 2, seeds 1 and 3, images 1, 2 and 3, no residual.
    found = crossed_interval(np.array([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]]))
    # MS_seed = 3 (1 + 1) / 1 = 6, MS_image = 2 (1 + 0 + 1) / 2 = 2; degrees of freedom
    # 8^2 / (6^2 / 1 + 2^2 / 2) = 1.68
    freedom, error = 64 / 38, np.sqrt(8 / 6)
    half = t.ppf(0.975, freedom) * error
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half))
    assert found.p == pytest.approx(2 * t.sf(2 / error, freedom))


def test_without_an_image_effect_it_is_at_least_as_wide_as_the_t_test_over_seeds():
    seeds = np.random.default_rng(3).normal(size=(5, 1))
    found = crossed_interval(seeds + np.zeros((5, 40)))
    expected = ttest_1samp(seeds[:, 0], 0)
    interval = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(expected.pvalue)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (0, 0)])
def test_one_seed_or_one_image_has_no_crossed_interval(shape):
    values = np.arange(float(np.prod(shape))).reshape(shape)
    assert np.isnan([*vars(crossed_interval(values)).values()]).all()


def test_equal_variants_differ_by_nothing():
    same = variant([[0.2, 0.4], [0.3, 0.5]])
    found = difference(same, same)
    assert found.mean == 0
    for interval in (mean_interval(found.by_seed), crossed_interval(found.values)):
        assert (interval.low, interval.high, interval.p) == (0, 0, 1)


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
        found = crossed_interval(values)
        inside += found.low <= 0 <= found.high
        assert (found.p > 0.05) == (found.low <= 0 <= found.high)
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


def rows_of(gram, none):
    return comparison_rows({"gram": variant(gram), "none": variant(none)}, "none")


def test_a_row_has_the_interval_over_seeds_and_that_over_images():
    rng = np.random.default_rng(0)
    gram, none = rng.normal(0.7, 0.02, (3, 20)), rng.normal(0.6, 0.02, (3, 20))
    row = rows_of(gram, none)[1]
    over_seeds = ttest_rel(gram.mean(axis=1), none.mean(axis=1))
    over_images = ttest_rel(gram.mean(axis=0), none.mean(axis=0)).confidence_interval()
    assert row["difference_by_seed"] == pytest.approx((gram - none).mean(axis=1).tolist())
    assert row["over_seeds"]["low"] == pytest.approx(over_seeds.confidence_interval().low)
    assert row["over_seeds"]["p"] == pytest.approx(over_seeds.pvalue)
    assert row["over_images"] == pytest.approx({"low": over_images.low, "high": over_images.high})
    assert "p" not in row["over_images"]


def test_rows_are_corrected_for_the_number_of_variants():
    rng = np.random.default_rng(0)
    gram, none = rng.random((3, 20)), rng.random((3, 20))
    alone = rows_of(gram, none)[1]
    three = {"none": variant(none), "a": variant(gram), "b": variant(gram), "c": variant(gram)}
    row = comparison_rows(three, "none")[1]
    assert row["corrected_for"] == 3
    assert row["over_seeds"]["p"] == pytest.approx(min(1, 3 * alone["over_seeds"]["p"]))
    assert row["over_images"]["high"] > alone["over_images"]["high"]


@pytest.mark.parametrize(
    ("seeds", "cell"), [(1, "unknown (1 seed)"), (2, "(2 seeds, too few)"), (3, "(3 seeds)")]
)
def test_the_table_gives_the_number_of_seeds_beside_their_interval(seeds, cell):
    rng = np.random.default_rng(0)
    rows = rows_of(rng.random((seeds, 9)) + 0.5, rng.random((seeds, 9)))
    line = comparison_table(rows, score="disc/iou").splitlines()[3]
    cells = [each.strip() for each in line.strip("|").split("|")]
    assert cells[7].endswith(cell)
    assert ("to" in cells[7]) == (seeds > 1)
    # The images of two lucky runs are no proof.
    assert (cells[8] == "-") == (seeds < 3)
    assert "to" in cells[9]


def test_seeds_that_two_variants_do_not_share_are_not_counted():
    none = VariantScores({1: RUN, 2: RUN}, np.array([[0.1, 0.2], [0.1, 0.2]]), ("0", "1"))
    rows = comparison_rows({"gram": variant([[0.3, 0.4], [0.5, 0.9]]), "none": none}, "none")
    assert rows[1]["difference_by_seed"] == pytest.approx([0.55])
    assert "unknown (1 seed)" in comparison_table(rows, score="iou")


def test_a_note_says_what_one_and_two_seeds_cannot_tell():
    assert few_seeds_note({"gram": 3, "rbf": 5}) is None
    note = few_seeds_note({"gram": 1, "rbf": 2, "bspline": 3})
    assert "One seed (gram): nothing" in note
    assert "Two seeds (rbf): hardly anything" in note
    assert "bspline" not in note


def test_the_table_names_score_and_baseline():
    rows = comparison_rows({"gram": variant([[0.5, 0.7]]), "none": variant([[0.4, 0.6]])}, "none")
    text = comparison_table(rows, score="disc/iou")
    assert "disc/iou" in text
    assert "minus none" in text
    assert "+0.1000" in text

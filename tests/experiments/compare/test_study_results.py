import json
from multiprocessing import get_context

import numpy as np
import pytest
from PIL import Image

from kanseg.benchmark.measure import Ratio
from kanseg.experiments.compare.study_figures import draw_study
from kanseg.experiments.compare.study_results import (
    append_line,
    code_version,
    equal_time_reference,
    read_lines,
    study_rows,
)
from kanseg.experiments.compare.study_tables import (
    cost_table,
    study_table,
    tuning_table,
    wins,
)
from kanseg.utils.errors import InputError

NAMES = ("x", "y", "z")


def line(
    variant="plain",
    seed=0,
    images=(0.5, 0.6, 0.7),
    *,
    cost=100.0,
    epochs=10,
    settings=None,
    lr=0.001,
):
    values = dict(zip(NAMES, images, strict=True))
    settings = {"training.lr": lr} | (settings or {})
    return {
        "set": "discs",
        "variant": variant,
        "seed": seed,
        "overrides": {"training.lr": lr},
        "settings": settings,
        "settings_hash": "0" * 12,
        "split": "test",
        "score": "disc/iou",
        "mean": float(np.mean(images)),
        "parameters": 1000,
        "multiply_adds": 2000,
        "cpu_seconds": cost,
        "epochs": epochs,
        "images": values,
    }


def diverged(variant, seed):
    return line(variant, seed) | {"mean": None, "score": None, "images": {}, "error": "NaN"}


LONGER = {"plain_1.2": ("plain", 1.2)}


def sets(*lines, name="discs"):
    """Set -> variant -> seed -> line."""
    runs = {}
    for each in lines:
        runs.setdefault(each["variant"], {})[each["seed"]] = each
    return {name: runs}


def rows_of(found, *, longer=None, **options):
    options.setdefault("equal_time", False)
    rows = study_rows(found, baseline="plain", longer=longer or {}, **options)
    return {row["variant"]: row for row in rows}


def _append_many(path, start):
    for number in range(start, start + 50):
        append_line(path, line(seed=number))


@pytest.mark.slow
def test_lines_of_several_processes_are_all_there(tmp_path):
    path = tmp_path / "final" / "discs.jsonl"
    context = get_context("spawn")
    processes = [context.Process(target=_append_many, args=(path, 50 * i)) for i in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(each["seed"] for each in read_lines(path)) == list(range(100))


def test_a_line_after_one_that_was_cut_off_is_whole(tmp_path):
    path = tmp_path / "discs.jsonl"
    path.write_text('{"set": "di')
    append_line(path, line())
    with pytest.raises(InputError, match="line 1"):
        read_lines(path)
    path.write_text(path.read_text().split("\n", 1)[1])
    assert read_lines(path) == [line()]


def test_no_file_has_no_lines(tmp_path):
    assert read_lines(tmp_path / "none.jsonl") == []


def test_a_row_gives_mean_spread_and_difference():
    rows = rows_of(
        sets(
            line("plain", 0),
            line("plain", 1, (0.4, 0.5, 0.6)),
            line("kan", 0, (0.6, 0.7, 0.9)),
            line("kan", 1, (0.6, 0.7, 0.7)),
        )
    )
    assert rows["plain"]["mean"] == pytest.approx(0.55)
    assert rows["plain"]["std"] == pytest.approx(np.std([0.6, 0.5], ddof=1))
    assert rows["kan"]["difference"] == pytest.approx(0.15)
    assert rows["kan"]["over_seeds"]["low"] < 0.15 < rows["kan"]["over_seeds"]["high"]
    assert rows["kan"]["better_in"] == 3
    assert "difference" not in rows["plain"]


def test_a_run_that_diverged_is_counted_and_gives_no_difference():
    found = sets(line("plain", 0), line("plain", 1), line("kan", 0), diverged("kan", 1))
    row = rows_of(found)["kan"]
    assert row["diverged"] == 1
    assert np.isnan(row["mean"])
    assert np.isnan(row["difference"])
    assert "2 (1 diverged)" in study_table([row])


def test_at_equal_time_the_reference_has_at_least_as_many_cpu_seconds():
    costs = {"plain": 100, "plain_1.2": 120, "plain_1.5": 150}
    assert equal_time_reference(99, costs) == "plain"
    assert equal_time_reference(101, costs) == "plain_1.2"
    assert equal_time_reference(151, costs) is None


def test_a_variant_that_costs_more_than_any_reference_is_shown_without_one():
    found = sets(line("plain", cost=100), line("plain_1.2", epochs=12), line("kan", cost=200))
    row = rows_of(found, equal_time=True, longer=LONGER)["kan"]
    assert row["against"] == "none"
    assert "difference" not in row


def test_longer_baselines_are_references_and_no_tests():
    found = sets(line("plain"), line("plain_1.2", epochs=12), line("kan", cost=110))
    rows = rows_of(found, equal_time=True, longer=LONGER)
    assert rows["kan"]["against"] == "plain_1.2"
    assert "difference" not in rows["plain_1.2"]


def test_a_longer_baseline_costs_what_its_epochs_cost_the_baseline():
    found = sets(
        line("plain", cost=100), line("plain_1.2", epochs=12, cost=90), line("kan", cost=110)
    )
    rows = rows_of(found, equal_time=True, longer=LONGER)
    assert rows["kan"]["against"] == "plain_1.2"


def test_without_a_reference_if_runs_were_too_short_for_the_clock():
    found = sets(line("plain", cost=0.0), line("kan", cost=0.1))
    assert rows_of(found, equal_time=True)["kan"]["against"] == "none"


def test_measured_steps_count_more_than_the_seconds_of_the_runs():
    found = sets(line("plain", cost=100), line("plain_1.2", epochs=12), line("kan", cost=90))
    steps = {"discs": {"plain": Ratio(1.0, 0.0), "kan": Ratio(1.1, 0.02)}}
    row = rows_of(found, equal_time=True, longer=LONGER)["kan"]
    assert (row["against"], row["step"]) == ("plain", None)
    row = rows_of(found, equal_time=True, longer=LONGER, steps=steps)["kan"]
    assert row["against"] == "plain_1.2"
    assert "1.10 ± 0.02" in cost_table([row])


def test_a_longer_variant_is_compared_with_the_baseline_of_as_many_epochs():
    longer = {"plain_3": ("plain", 3.0), "kan_3": ("kan", 3.0)}
    found = sets(
        line("plain", images=(0.1, 0.1, 0.1)),
        line("plain_3", images=(0.5, 0.5, 0.5)),
        line("kan_3", images=(0.7, 0.7, 0.7)),
    )
    row = rows_of(found, longer=longer)["kan_3"]
    assert row["against"] == "plain_3"
    assert row["difference"] == pytest.approx(0.2)
    assert "kan_3" not in rows_of(found, longer=longer, equal_time=True)


def test_p_is_corrected_for_the_number_of_variants():
    rng = np.random.default_rng(0)
    lines = [line("plain", seed, rng.random(3)) for seed in range(3)]
    kan = [line("kan", seed, rng.random(3)) for seed in range(3)]
    alone = rows_of(sets(*lines, *kan))["kan"]
    twice = [each | {"variant": "kan_2"} for each in kan]
    both = rows_of(sets(*lines, *kan, *twice))["kan"]
    for key in ("over_seeds", "over_both"):
        assert both[key]["p"] == pytest.approx(min(2 * alone[key]["p"], 1))


def test_wins_count_sets_and_intervals_of_three_seeds_or_more():
    rows = []
    for d, w, seeds in ((0.3, 0.1, 3), (0.1, 0.2, 3), (-0.3, 0.1, 3), (0.3, 0.1, 2)):
        interval = {"low": d - w, "high": d + w}
        row = {"variant": "kan", "difference": d, "over_both": interval}
        rows.append(row | {"difference_by_seed": [d] * seeds})
    cells = [cell.strip() for cell in wins(rows).splitlines()[2].strip("|").split("|")]
    assert cells == ["kan", "4", "3", "1", "1", "1"]


def test_the_tuning_table_marks_the_value_that_was_chosen():
    """The first of equal ones."""
    best = (0.9, 0.9, 0.9)
    lines = [line(lr=0.001), line(lr=0.01, images=best), line(lr=0.1, images=best)]
    text = tuning_table({"discs": lines}, "training.lr")
    assert ["0.01" in row for row in text.splitlines() if "best" in row] == [True]


def test_the_figure_shows_every_set(tmp_path):
    found = sets(*(line(v, s, (0.5, 0.6 + s / 50, 0.7)) for v in ("plain", "kan") for s in (0, 1)))
    two = found | {"rings": found["discs"]}
    rows = study_rows(two, baseline="plain", longer={}, equal_time=False)
    small = draw_study([row for row in rows if row["set"] == "discs"], tmp_path / "a.png", title="")
    large = draw_study(rows, tmp_path / "b.png", title="")
    assert Image.open(large).height > Image.open(small).height


def test_the_code_is_named_by_version_and_commit():
    code = code_version()
    assert code.keys() == {"kanseg", "commit"}
    assert code["commit"] is None or len(code["commit"].removesuffix("-dirty")) == 40
    assert "/" not in json.dumps(code)

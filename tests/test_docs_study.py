"""The figures of the studies in README and docs/ are those of their runs in docs/results/."""

import shutil
from functools import cache
from pathlib import Path

import pytest

from kanseg.config import TrainingConfig
from kanseg.experiments.compare.study_file import read_study
from kanseg.experiments.compare.study_report import write_study
from kanseg.experiments.compare.study_results import by_variant, read_lines, study_rows
from kanseg.experiments.compare.study_time import step_ratios

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
STUDY = read_study(ROOT / "configs" / "studies" / "shared_functions.yaml")
NAMES = {
    "glas": "GlaS",
    "busi": "BUSI",
    "cvc": "CVC",
    "dsb2018": "DSB2018",
    "camvid": "CamVid",
    "drive": "DRIVE",
    "isbi": "ISBI",
    "quickstart": "quickstart",
}


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def marked(page, name):
    """The lines between <!-- name --> and <!-- /name -->."""
    return read(page).split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0].strip()


@cache
def study_runs():
    """Set -> variant -> seed -> line."""
    sets = {}
    for name in STUDY.sets:
        path = RESULTS / "shared_functions" / "final" / f"{name}.jsonl"
        sets[name] = by_variant(read_lines(path), where=path)
    return sets


def rows_of(variant, *, baseline="silu", equal_time=False):
    """Set -> row of a variant, compared as the report of the study does."""
    sets = study_runs()
    steps = {name: step_ratios(RESULTS / "shared_functions", name, "silu") for name in sets}
    rows = study_rows(
        sets, baseline=baseline, longer=STUDY.longer, equal_time=equal_time, steps=steps
    )
    return {row["set"]: row for row in rows if row["variant"] == variant}


def difference_cell(row):
    """The difference and its interval, bold where zero lies outside."""
    interval = row["over_both"]
    text = f"{row['difference']:+.3f} ({interval['low']:+.3f} to {interval['high']:+.3f})"
    if interval["low"] > 0 or interval["high"] < 0:
        return f"**{text}**"
    return text


def count_cell(rows):
    """How many sets are ahead, and how many intervals lie above and below zero."""
    ahead = sum(row["difference"] > 0 for row in rows)
    above = sum(row["over_both"]["low"] > 0 for row in rows)
    below = sum(row["over_both"]["high"] < 0 for row in rows)
    return f"{ahead} / {above} / {below}"


def readme_rows():
    """The rows of README's table."""
    plain, equal = rows_of("silu"), rows_of("gram_channel")
    timed = rows_of("gram_channel", equal_time=True)
    for key, name in NAMES.items():
        cost = equal[key]["step"].median
        yield (
            f"| {name} | {plain[key]['mean']:.3f} | {equal[key]['mean']:.3f} |"
            f" {difference_cell(equal[key])} | {difference_cell(timed[key])} | {cost:.2f} |"
        )
    counts = [count_cell(rows.values()) for rows in (equal, timed)]
    yield f"| ahead / above 0 / below 0 | | | {counts[0]} | {counts[1]} | |"


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_the_table_of_the_study_is_that_of_its_runs(page):
    rows = [line for line in marked(page, "study").splitlines() if line.startswith("| ")]
    expected = list(readme_rows())
    if page == "README.zh-CN.md":
        rows = [row.replace("领先 / 高于 0 / 低于 0", "ahead / above 0 / below 0") for row in rows]
    assert rows[1:] == expected


def test_the_counts_of_the_other_activations_are_those_of_the_runs():
    clear = {}
    for variant, ahead in (("gram_layer", 7), ("prelu", 4)):
        rows = rows_of(variant)
        clear[variant] = [name for name, row in rows.items() if row["over_both"]["low"] > 0]
        assert sum(row["difference"] > 0 for row in rows.values()) == ahead
    assert clear == {"gram_layer": ["glas", "dsb2018"], "prelu": ["glas"]}
    against = rows_of("gram_channel", baseline="prelu").values()
    assert sum(row["difference"] > 0 for row in against) == 7


def tuning_means():
    """The rows of the table of learning rates: validation scores, mean over the sets."""
    _, rates = STUDY.tuned
    sums = {}
    for name in STUDY.sets:
        for line in read_lines(RESULTS / "shared_functions" / "tune" / f"{name}.jsonl"):
            key = line["variant"], line["overrides"]["training.lr"]
            sums.setdefault(key, {})[name] = line["mean"]
    for variant in STUDY.variants:
        scores = [sums.get((variant, rate), {}) for rate in rates]
        if all(len(each) == len(STUDY.sets) for each in scores):
            best = [max(each[name] for each in scores) for name in STUDY.sets]
            cells = [sum(each.values()) / len(each) for each in scores] + [sum(best) / len(best)]
            yield f"| {variant} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |"


def test_the_table_of_learning_rates_is_that_of_the_tuning():
    rows = [line for line in marked("docs/study.md", "rates").splitlines() if line[:2] == "| "]
    assert rows[1:] == list(tuning_means())


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_the_scores_at_the_default_learning_rate_are_those_of_the_tuning(page):
    rows = {row.split(" | ")[0].strip("| "): row.strip("| ").split(" | ") for row in tuning_means()}
    assert STUDY.tuned[1][0] == TrainingConfig().lr
    for variant in ("silu", "gram_channel"):
        _, at_default, *_, best = rows[variant]
        assert at_default in read(page) and best in read(page)


@pytest.mark.parametrize("name", ["shared_functions"])
def test_the_report_of_a_study_is_that_of_its_runs(name, tmp_path):
    study = read_study(ROOT / "configs" / "studies" / f"{name}.yaml")
    for stage in ("tune", "final", "time"):
        shutil.copytree(RESULTS / name / stage, tmp_path / stage)
    variants = [*study.variants, *study.longer]
    write_study(study, list(study.sets), variants, tmp_path, log=lambda line: None)
    assert (tmp_path / "table.md").read_text() == read(f"docs/results/{name}/table.md")

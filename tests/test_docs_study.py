"""The figures of the studies in README and docs/ are those of their runs in docs/results/."""

import shutil
from functools import cache
from pathlib import Path

import pytest

from kanseg.config import TrainingConfig
from kanseg.experiments.compare.study import fitting_lines
from kanseg.experiments.compare.study_file import read_study
from kanseg.experiments.compare.study_report import write_study
from kanseg.experiments.compare.study_results import read_lines, study_rows
from kanseg.experiments.compare.study_time import step_ratios

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
STUDIES = {
    name: read_study(ROOT / "configs" / "studies" / f"{name}.yaml")
    for name in ("shared_functions", "classifiers")
}
STUDY = STUDIES["shared_functions"]
NAMES = {
    "glas": "GlaS",
    "busi": "BUSI",
    "cvc": "CVC",
    "dsb2018": "DSB2018",
    "camvid": "CamVid",
    "drive": "DRIVE",
    "isbi": "ISBI",
    "quickstart": "quickstart",
    "mnist": "MNIST",
    "cifar10": "CIFAR-10",
}


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def marked(page, name):
    """The lines between <!-- name --> and <!-- /name -->."""
    return read(page).split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0].strip()


@cache
def study_runs(study="shared_functions"):
    """Set -> variant -> seed -> line."""
    asked = STUDIES[study]
    variants = [*asked.variants, *asked.longer]
    found = fitting_lines(asked, list(asked.sets), variants, RESULTS / study)
    assert found.left_out == []
    return found.final


def rows_of(variant, *, study="shared_functions", baseline="silu", equal_time=False):
    """Set -> row of a variant, compared as the report of the study does."""
    sets = study_runs(study)
    steps = {name: step_ratios(STUDIES[study], name, RESULTS / study) for name in sets}
    rows = study_rows(
        sets, baseline=baseline, longer=STUDIES[study].longer, equal_time=equal_time, steps=steps
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


def clearly_ahead(rows):
    """The sets whose interval lies above zero."""
    return [name for name, row in rows.items() if row["over_both"]["low"] > 0]


def readme_rows():
    """The rows of README's table."""
    plain, equal = rows_of("silu"), rows_of("gram_channel")
    timed = rows_of("gram_channel", equal_time=True)
    for key in STUDY.sets:
        cost = equal[key]["step"].median
        yield (
            f"| {NAMES[key]} | {plain[key]['mean']:.3f} | {equal[key]['mean']:.3f} |"
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
        rows = [row.replace(" 至 ", " to ") for row in rows]
    assert rows[1:] == expected


def test_the_counts_of_the_other_activations_are_those_of_the_runs():
    counts = {name: count_cell(rows_of(name).values()) for name in ("gram_layer", "prelu", "relu")}
    assert counts == {"gram_layer": "7 / 2 / 0", "prelu": "4 / 1 / 0", "relu": "2 / 0 / 1"}
    assert clearly_ahead(rows_of("gram_layer")) == ["glas", "dsb2018"]
    assert clearly_ahead(rows_of("prelu")) == ["glas"]
    assert rows_of("relu")["cvc"]["over_both"]["high"] < 0
    against = {name: rows_of("gram_channel", baseline=name) for name in ("prelu", "relu")}
    assert count_cell(against["prelu"].values()) == "7 / 1 / 0"
    assert clearly_ahead(against["prelu"]) == ["drive"]
    assert count_cell(against["relu"].values()) == "7 / 3 / 0"
    assert clearly_ahead(against["relu"]) == ["cvc", "dsb2018", "drive"]


def test_the_pages_say_that_the_aim_was_not_reached():
    """Ahead on 6 sets, clearly on 3, clearly behind on none, for both questions."""
    for equal_time in (False, True):
        counts = count_cell(rows_of("gram_channel", equal_time=equal_time).values())
        ahead, above, below = map(int, counts.split(" / "))
        assert not (ahead >= 6 and above >= 3 and below == 0)
    assert "aim was not reached" in read("README.md")
    assert "The aim was not reached" in read("docs/study.md")


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_the_figures_of_the_other_questions_are_those_of_the_runs(page):
    text = read(page)
    for row in rows_of("gram_channel_x3").values():
        assert f"{row['difference']:+.3f}" in text
        assert row["over_both"]["low"] < 0 < row["over_both"]["high"]
    for row in rows_of("gram_edge").values():
        assert f"({row['difference']:+.3f})" in text or f"（{row['difference']:+.3f}）" in text
        assert row["over_both"]["low"] < 0 < row["over_both"]["high"]
        assert 2.35 < row["step"].median < 2.5
    larger = rows_of("smp_resnet18")
    assert list(larger) == ["glas", "dsb2018"]
    assert all(f"{row['difference']:+.3f}" in text for row in larger.values())
    for variant in ("silu", "silu_x1.2", "gram_channel"):
        correct = rows_of(variant, study="classifiers")["cifar10"]["mean"]
        assert f"{100 * correct:.1f} %" in text
    for variant in ("silu", "gram_channel"):
        assert f"{100 * rows_of(variant, study='classifiers')['mnist']['mean']:.1f}" == "99.1"


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


def convergence_rows():
    """Scores after the protocol's epochs and after three times as many, and their differences."""
    for key, row in rows_of("gram_channel_x3").items():
        plain, learned = rows_of("silu")[key], rows_of("gram_channel")[key]
        longer = rows_of("silu_x3")[key]
        for epochs, base, other in ((1, plain, learned), (3, longer, row)):
            yield (
                f"| {NAMES[key]} | {epochs} | {base['mean']:.3f} | {other['mean']:.3f} |"
                f" {difference_cell(other)} |"
            )


def edge_rows():
    """Functions of every connection, and those of a channel, minus SiLU; and their costs."""
    sets = list(rows_of("gram_edge"))
    for variant in ("gram_edge", "gram_edge_zero", "gram_channel"):
        rows = rows_of(variant)
        cells = [difference_cell(rows[key]) for key in sets]
        cells += [f"{rows[key]['step'].median:.2f}" for key in sets]
        yield f"| {variant} | " + " | ".join(cells) + " |"


def classifier_rows():
    """Correct test images of the classifiers, and their differences."""
    plain = rows_of("silu", study="classifiers")
    equal = rows_of("gram_channel", study="classifiers")
    timed = rows_of("gram_channel", study="classifiers", equal_time=True)
    for key in STUDIES["classifiers"].sets:
        yield (
            f"| {NAMES[key]} | {plain[key]['mean']:.4f} | {equal[key]['mean']:.4f} |"
            f" {difference_cell(equal[key])} | {difference_cell(timed[key])} |"
            f" {equal[key]['step'].median:.2f} |"
        )


@pytest.mark.parametrize(
    ("name", "expected"),
    [("convergence", convergence_rows), ("edge", edge_rows), ("classifiers", classifier_rows)],
)
def test_the_tables_of_the_other_questions_are_those_of_the_runs(name, expected):
    rows = [line for line in marked("docs/study.md", name).splitlines() if line[:2] == "| "]
    assert rows[1:] == list(expected())


@pytest.mark.parametrize("name", STUDIES)
def test_the_report_of_a_study_is_that_of_its_runs(name, tmp_path):
    study = STUDIES[name]
    for stage in ("tune", "final", "time"):
        shutil.copytree(RESULTS / name / stage, tmp_path / stage)
    variants = [*study.variants, *study.longer]
    write_study(study, list(study.sets), variants, tmp_path, log=lambda line: None)
    assert (tmp_path / "table.md").read_text() == read(f"docs/results/{name}/table.md")

import ast
from dataclasses import fields
from pathlib import Path
from string import Formatter

import jinja2
import pytest
import torch

import kanseg
from kanseg.config.arguments import PLURALS, TYPES
from kanseg.data.formats.issues import KINDS
from kanseg.data.io.decode_errors import NOT_REGULAR
from kanseg.metrics import ClassificationMetrics, SegmentationMetrics, SurfaceOptions
from kanseg.training.run_folder.clock import Times
from kanseg.utils.language import chinese_texts, language, translate
from kanseg.visualization.report.page import IMAGES
from kanseg.visualization.report.tables import READABLE, flatten

PACKAGE = Path(kanseg.__file__).parent
RUN = ("parameters", "epochs", "best_epoch", "multiply_adds", "environment", "processes")


@pytest.fixture
def locale(monkeypatch):
    for name in ("KANSEG_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_without_a_locale_pages_are_english(locale):
    assert language() == "en"


@pytest.mark.parametrize("name", ["LC_ALL", "LC_MESSAGES", "LANG"])
@pytest.mark.parametrize(
    ("value", "expected"), [("zh_CN.UTF-8", "zh"), ("zh", "zh"), ("de_DE", "en"), ("", "en")]
)
def test_the_locale_decides(locale, name, value, expected):
    locale.setenv(name, value)
    assert language() == expected


def test_the_first_variable_that_is_set_decides(locale):
    locale.setenv("LANG", "zh_CN.UTF-8")
    locale.setenv("LC_ALL", "C.UTF-8")
    assert language() == "en"
    locale.setenv("LC_ALL", "")
    assert language() == "zh"
    locale.setenv("KANSEG_LANG", "en")
    assert language() == "en"


def test_kanseg_lang_is_chinese_whatever_the_locale(locale):
    locale.setenv("LC_ALL", "C")
    locale.setenv("KANSEG_LANG", "zh")
    assert language() == "zh"


def test_values_are_inserted_in_both_languages(monkeypatch):
    assert translate("Scores of {split}", split="{x}") == "Scores of {x}"
    monkeypatch.setenv("KANSEG_LANG", "zh")
    assert translate("Scores of {split}", split="{x}") == "{x} 的得分"


def test_an_unknown_text_stays_as_it_is(monkeypatch):
    monkeypatch.setenv("KANSEG_LANG", "zh")
    assert translate("a score of {tomorrow}") == "a score of {tomorrow}"


def texts_in_python():
    """The texts that modules give to `translate`, and those of errors."""
    for path in PACKAGE.rglob("*.py"):
        source = path.read_text()
        for node in ast.walk(ast.parse(source)):
            if (
                isinstance(node, ast.Call)
                and getattr(node.func, "id", "") in ("translate", "figure_text", "InputError")
                and node.args
                and isinstance(node.args[0], ast.Constant)
            ):
                yield node.args[0].value


def texts_in_templates():
    """The texts that templates give to `translate`."""
    for path in PACKAGE.rglob("templates/*.html"):
        for call in jinja2.Environment().parse(path.read_text()).find_all(jinja2.nodes.Call):
            if getattr(call.node, "name", "") == "translate":
                yield call.args[0].value


def names_of_scores():
    """The names of all scores and figures of a run in its report, as in metrics.json."""
    yield from RUN
    yield from (field.name for field in fields(Times))
    masks, classes = torch.zeros(1, 4, 4, dtype=torch.long), ("a", "b")
    segmentation = SegmentationMetrics(classes, surface=SurfaceOptions())
    segmentation.update(masks, masks, [0], probabilities=torch.ones(1, 2, 4, 4) / 2)
    classification = ClassificationMetrics(classes)
    classification.update(torch.ones(1, 2) / 2, torch.zeros(1, dtype=torch.long), [0])
    for scores in (segmentation.compute(), classification.compute()):
        per_class = scores.pop("classes")["a"], scores.get("per_image", {}).pop("classes", {})
        for group in (scores, per_class[0], per_class[1].get("b", {})):
            yield from flatten(group)


def texts_of_scores():
    for name in names_of_scores():
        for part in name.removeprefix("per_image.").split("."):
            yield " ".join(READABLE.get(word, word) for word in part.split("_"))


def test_every_text_has_its_translation_and_no_translation_is_unused():
    used = {*texts_in_python(), *texts_in_templates(), *texts_of_scores()}
    used |= {kind.title for kind in KINDS.values()} | {kind for _, kind in NOT_REGULAR}
    used |= {*TYPES.values(), *PLURALS.values()}
    for title, note in IMAGES.values():
        used |= {title, note}
    assert used == set(chinese_texts())


def test_translations_hold_the_same_values():
    def names(text):
        return sorted(name for _, name, _, _ in Formatter().parse(text) if name is not None)

    for english, chinese in chinese_texts().items():
        assert names(chinese) == names(english)

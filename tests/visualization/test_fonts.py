import pytest

from kanseg.visualization import fonts
from kanseg.visualization.fonts import families, font_for


@pytest.fixture
def stix(monkeypatch):
    """As if a family that comes with matplotlib were the one with the missing letters."""
    families.cache_clear()
    monkeypatch.setattr(fonts, "CHINESE", ("no such family", "STIXGeneral"))
    yield
    families.cache_clear()


def test_letters_that_are_missing_come_from_another_installed_font(stix):
    assert families() == ["DejaVu Sans", "STIXGeneral"]
    assert font_for("\u2a73").getname()[0] == "STIXGeneral"  # equals sign above tilde


def test_european_alphabets_need_no_other_font(stix):
    for text in ("plain", "\xc4rger", "\u017elu\u0165", "\u0434\u043e\u043c", "\u03b1\u03b2"):
        assert font_for(text, 9).getname()[0] == "DejaVu Sans"
    assert font_for("x", 9).size == 9


def test_letters_that_nothing_has_are_drawn_as_boxes(stix):
    assert font_for("\U000f0000").getname()[0] == "DejaVu Sans"

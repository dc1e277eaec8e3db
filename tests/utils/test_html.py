import base64

import jinja2
import pytest

from kanseg.utils.html import anchor, image_url, render_page

PAGE = """{% extends "base.html" %}
{% from "base.html" import heading with context %}
{% block content %}{{ heading(title) }}<p>{{ text }}</p>{% endblock %}
"""


@pytest.fixture
def template(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(PAGE)
    return path


def test_values_are_escaped(template):
    page = render_page(template, title="a & b", text="<script>'\"")
    assert "<script>'" not in page
    assert "<p>&lt;script&gt;&#39;&#34;</p>" in page
    assert "<title>a &amp; b</title>" in page
    assert '<h2 id="a---b">a &amp; b</h2>' in page


def test_a_missing_value_is_an_error(template):
    with pytest.raises(jinja2.UndefinedError, match="text"):
        render_page(template, title="t")


def test_an_anchor_has_letters_digits_and_hyphens():
    assert anchor("Scores of <val> 2") == "scores-of--val--2"


def test_an_image_url_holds_the_file():
    url = image_url(b"abc", "png")
    assert url.startswith("data:image/png;base64,")
    assert base64.b64decode(url.split(",")[1]) == b"abc"

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from kanseg.data import write_png
from kanseg.visualization.report.page import IMAGES, draw_report

SCORES = {
    "foreground_iou": 0.81234,
    "mean_iou": 0.9,
    "mean_hd95": 12.345678,
    "images": 7,
    "surface": {"tolerance": 2.0, "mean_nsd": 0.71239},
    "confusion": [[1, 2], [3, 4]],
    "classes": {
        "sea & sky": {"iou": 0.91117, "pixels": 1234567, "hd95": None},
        "<b>lake</b>": {"iou": float("nan"), "pixels": 3000000},
    },
    "per_image": {"foreground_iou": 0.62228, "classes": {"sea & sky": {"iou": 0.53339}}},
}
RESULTS = {
    "test": SCORES,
    "parameters": 1234567,
    "seconds": 61.5,
    "best_epoch": 3,
    "environment": "a processor",
}
CONFIG = (
    "run_dir: 'runs/a run'\ndata: {root: my_set, val: [val], test: [test]}\nmodel: {name: unet,"
    " basis: gram}\ntraining: {loss: {ce: 1.0}}\n"
)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "a run"
    noise = np.random.default_rng(0).integers(0, 255, (400, 600, 3)).astype(np.uint8)
    for name in IMAGES:
        write_png(folder / name, noise[:300, :300] if name == "curves.png" else noise)
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "metrics.json").write_text(json.dumps(RESULTS | {"test": SCORES | {"classes": {}}}))
    return folder


def images(page):
    return [
        Image.open(io.BytesIO(base64.b64decode(data)))
        for data in re.findall(r'src="data:image/\w+;base64,([^"]+)"', page)
    ]


def test_every_score_is_on_the_page(run):
    page = draw_report(run, RESULTS).read_text()
    for score in (
        "0.8123",
        "12.35",
        "0.7124",
        "0.9112",
        "0.6223",
        "0.5334",
        "1,234,567",
        "3,000,000",
        "29.15%",
        "70.85%",
        "61.5",
        "a processor",
    ):
        assert f">{score}<" in page, score
    assert ">nan<" not in page.lower()


def test_names_are_text_and_nothing_else(run):
    page = draw_report(run, RESULTS).read_text()
    assert "&lt;b&gt;lake&lt;/b&gt;" in page
    assert "<b>lake" not in page
    assert "sea &amp; sky" in page


def test_every_image_is_inside_the_page_and_whole(run):
    page = draw_report(run).read_text()
    assert page.count("<img") == len(IMAGES)
    assert [image.convert("RGB").size for image in images(page)] == [
        (600, 400),
        (600, 400),
        (600, 400),
        (300, 300),
        (600, 400),
    ]
    assert "src=" not in re.sub(r'src="data:[^"]+"', "", page)
    assert set(re.findall(r'href="#([^"]+)"', page)) == set(re.findall(r'id="([^"]+)"', page))


def test_images_have_their_size_and_a_text(run):
    page = draw_report(run).read_text()
    shown = re.findall(r'<button class="zoom".*<img width="(\d+)" height="(\d+)" alt="(.+?)"', page)
    assert [alt for _, _, alt in shown] == [title for title, _ in IMAGES.values()]
    assert ("300", "300", "Learning curves") in shown


def test_the_page_in_chinese(run, monkeypatch):
    monkeypatch.setenv("KANSEG_LANG", "zh")
    page = draw_report(run, RESULTS).read_text()
    assert '<html lang="zh">' in page
    for heading in ("最差的图像", "学习曲线", "test 的得分", "命令", "设置", "运行"):
        assert f">{heading}</h2>" in page
    assert "<th>IoU</th>" in page
    assert "<th>IoU（逐图）</th>" in page
    assert "</b>test: 前景 IoU（逐图）</div>" in page
    assert set(re.findall(r'href="#([^"]+)"', page)) == set(re.findall(r'id="([^"]+)"', page))


def test_the_commands_can_be_pasted(run):
    page = draw_report(run).read_text()
    assert (
        "kanseg predict --checkpoint &#39;runs/a run/best&#39; --input IMAGES --output masks\n"
        in page
    )
    assert "kanseg evaluate --checkpoint &#39;runs/a run/best&#39; --split test\n" in page
    assert "kanseg train --resume --run_dir &#39;runs/a run&#39;<" in page
    (run / "config.yaml").write_text(CONFIG.replace("loss: {ce: 1.0}", "mixup: 0.0"))
    page = draw_report(run).read_text()
    assert "kanseg classify --resume --run_dir &#39;runs/a run&#39;<" in page
    best = "--checkpoint &#39;runs/a run/best&#39;"
    assert f"kanseg predict {best} --input IMAGES --output predictions\n" in page
    assert f"kanseg evaluate {best} --split test\n" in page


def test_a_page_that_would_be_too_large_to_send_has_coarser_images(run):
    whole = draw_report(run).stat().st_size
    assert draw_report(run, max_size=whole // 2).stat().st_size < whole // 2


def test_an_empty_folder_has_a_page_that_says_so(tmp_path):
    page = draw_report(tmp_path).read_text()
    assert "nothing was measured" in page
    assert "<img" not in page
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]

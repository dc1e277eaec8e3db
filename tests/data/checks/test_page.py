import base64
import io
import re
import shutil

import numpy as np
from PIL import Image

from kanseg.config import DataConfig
from kanseg.data import check_data
from kanseg.data.checks.page import render_check


def images(html):
    return [
        Image.open(io.BytesIO(base64.b64decode(data)))
        for data in re.findall(r'data:image/png;base64,([^"]+)"', html)
    ]


def test_every_fault_is_listed_and_names_are_escaped(folder):
    (folder / "images" / "p00.png").rename(folder / "images" / "a<b>.png")
    (folder / "masks" / "p00.png").rename(folder / "masks" / "a<b>.png")
    (folder / "train.txt").write_text("a<b>\np01\n")
    (folder / "images" / "a<b>.png").write_bytes(b"")
    report = check_data(DataConfig(root=str(folder)))
    html = render_check(report)
    assert "images/a&lt;b&gt;.png</code>: the file is empty" in html
    assert "<b>" not in html


def test_samples_are_shown_with_their_labels(folder):
    report = check_data(
        DataConfig(
            root=str(folder),
            palette=[[0, 0, 0], [255, 0, 255]],
            classes=["a", "b"],
            mask_values={0: 0, 255: 1},
        )
    )
    shown = images(render_check(report))
    assert len(shown) == 6
    assert all(image.size == (40, 32) for image in shown)
    tinted = [np.asarray(image.convert("RGB")).astype(int) for image in shown]
    assert all(((p[..., 0] > p[..., 1] + 50) & (p[..., 2] > p[..., 1] + 50)).any() for p in tinted)


def test_a_bad_mask_is_drawn_beside_its_image(folder):
    Image.fromarray(np.full((32, 40), 3, np.uint8)).save(folder / "masks" / "p02.png")
    report = check_data(
        DataConfig(root=str(folder), classes=["a", "b"], mask_values={0: 0, 255: 1})
    )
    html = render_check(report)
    assert len(images(html)) == 5 + 2
    assert re.findall("<figcaption>(.*)</figcaption>", html)[:2] == [
        "images/p02.png",
        "masks/p02.png",
    ]


def test_each_of_two_duplicates_is_shown_with_its_name(folder):
    shutil.copy(folder / "images" / "p02.png", folder / "images" / "p03.png")
    html = render_check(check_data(DataConfig(root=str(folder))))
    assert re.findall("<figcaption>(.*)</figcaption>", html)[:2] == [
        "images/p02.png",
        "images/p03.png",
    ]
    assert "Sizes (height x width)" in html
    assert "<td>32x40</td>" in html


def test_multilabel_samples_are_drawn_in_the_color_of_their_class(folder):
    for path in sorted((folder / "masks").glob("*.png")):
        path.unlink()
        for number in (0, 1):
            mask = np.zeros((32, 40), np.uint8)
            mask[5:8] = 255 * number
            (folder / "masks" / str(number)).mkdir(exist_ok=True)
            Image.fromarray(mask).save(folder / "masks" / str(number) / path.name)
    report = check_data(
        DataConfig(
            root=str(folder),
            task="multilabel",
            classes=["a", "b"],
            mask_values={0: 0, 255: 1},
            palette=[[0, 255, 0], [255, 0, 255]],
        )
    )
    shown = images(render_check(report))
    samples = [np.asarray(image.convert("RGB")).astype(int) for image in shown[-6:]]
    tinted = [((p[..., 0] > p[..., 1] + 50) & (p[..., 2] > p[..., 1] + 50)) for p in samples]
    assert len(samples) == 6
    for mask in tinted:
        assert mask[5:8].mean() > 0.9
        assert mask[14:].mean() < 0.1


def test_large_images_are_small_on_the_page_and_larger_when_enlarged(folder):
    noise = np.random.default_rng(0).integers(0, 255, (300, 600, 3)).astype(np.uint8)
    Image.fromarray(noise).save(folder / "images" / "p02.png")
    html = render_check(check_data(DataConfig(root=str(folder))))
    (data,) = set(re.findall(r'width="168" height="84".*data:image/jpeg;base64,([^"]+)"', html))
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (400, 200)


def test_every_image_says_what_it_shows(folder):
    (folder / "masks" / "p02.png").unlink()
    html = render_check(check_data(DataConfig(root=str(folder))))
    assert re.findall(r'alt="([^"]*p0[23][^"]*)"', html) == [
        "Image images/p02.png",
        "Image p03 with its labels",
    ]
    assert 'alt=""' not in html


def test_the_page_in_chinese(folder, monkeypatch):
    monkeypatch.setenv("KANSEG_LANG", "zh")
    (folder / "images" / "p02.png").write_bytes(b"")
    html = render_check(check_data(DataConfig(root=str(folder))))
    assert '<html lang="zh">' in html
    assert "<code>empty_file</code> 文件为 0 字节 (1)" in html
    assert "images/p02.png</code>: 文件为空" in html
    assert "错误 1 个，警告 0 个" in html
    assert "test：2 个样本中的 2 个" in html
    assert 'alt="图像 p03 及其标注"' in html


def test_a_set_that_cannot_be_opened_has_a_page_too(folder):
    (folder / "dataset.yaml").write_text("- nonsense\n")
    assert "dataset.yaml" in render_check(check_data(DataConfig(root=str(folder))))

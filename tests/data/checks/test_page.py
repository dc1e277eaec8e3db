import base64
import io
import re

import numpy as np
from PIL import Image

from kanseg.config import DataConfig
from kanseg.data import check_data
from kanseg.data.checks.page import page


def images(html):
    return [
        Image.open(io.BytesIO(base64.b64decode(data)))
        for data in re.findall(r"data:image/png;base64,([^']+)'", html)
    ]


def test_every_fault_is_listed_and_names_are_escaped(folder):
    (folder / "images" / "p00.png").rename(folder / "images" / "a<b>.png")
    (folder / "masks" / "p00.png").rename(folder / "masks" / "a<b>.png")
    (folder / "train.txt").write_text("a<b>\np01\n")
    (folder / "images" / "a<b>.png").write_bytes(b"")
    report = check_data(DataConfig(root=str(folder)))
    html = page(report)
    assert "images/a&lt;b&gt;.png</code>: the file is empty" in html
    assert "<b>" not in html


def test_the_sheets_show_samples_with_their_labels(folder):
    report = check_data(
        DataConfig(
            root=str(folder),
            palette=[[0, 0, 0], [255, 0, 255]],
            classes=["a", "b"],
            mask_values={0: 0, 255: 1},
        )
    )
    shown = images(page(report))
    assert len(shown) == 6
    assert all(image.size == (168, 134) for image in shown)
    tinted = [np.asarray(image.convert("RGB")).astype(int) for image in shown]
    assert all(((p[..., 0] > p[..., 1] + 50) & (p[..., 2] > p[..., 1] + 50)).any() for p in tinted)


def test_a_bad_mask_is_drawn_beside_its_image(folder):
    Image.fromarray(np.full((32, 40), 3, np.uint8)).save(folder / "masks" / "p02.png")
    report = check_data(
        DataConfig(root=str(folder), classes=["a", "b"], mask_values={0: 0, 255: 1})
    )
    assert len(images(page(report))) == 5 + 2


def test_multilabel_sheets(folder):
    for path in list((folder / "masks").iterdir()):
        for layer in ("a", "b"):
            (folder / "masks" / layer).mkdir(exist_ok=True)
            Image.open(path).save(folder / "masks" / layer / path.name)
        path.unlink()
    assert len(images(page(check_data(DataConfig(root=str(folder)))))) == 6


def test_a_set_that_cannot_be_opened_has_a_page_too(folder):
    (folder / "dataset.yaml").write_text("- nonsense\n")
    assert "dataset.yaml" in page(check_data(DataConfig(root=str(folder))))

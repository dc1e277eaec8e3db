import json

import numpy as np
from PIL import Image

from kanseg.data.drawing import colourise, overlay, viewable
from kanseg.training.log import plain
from kanseg.training.pictures import draw_curves, sample_cells, sheet


def test_missed_pixels_are_blue_other_errors_red_ignored_pixels_grey_and_the_rest_dim():
    image = np.full((1, 3, 3), 200, np.uint8)
    truth, predicted = np.array([[0, 1, 255]], np.uint8), np.array([[0, 0, 1]])
    error = sample_cells(image, truth, predicted, [(0, 0, 0), (255, 0, 0)])[3]
    assert error.tolist() == [[[70, 70, 70], [30, 110, 255], [128, 128, 128]]]
    assert sample_cells(image, 1 - truth, predicted, [(0, 0, 0), (255, 0, 0)])[3][0, 1].tolist() == [70, 70, 70]
    assert sample_cells(image, truth, predicted, [(0, 0, 0)] * 3)[3][0, 1].tolist() == [230, 30, 60]


def test_sheets_have_a_row_a_sample_and_a_legend():
    cells = [np.zeros((32, 32, 3), np.uint8)] * 4
    one, two = (sheet([cells] * n, ["a"] * n, ["x", "y"], [(1, 2, 3), (9, 200, 9)]) for n in (1, 2))
    assert two.shape[0] - one.shape[0] == 256 + 22
    assert (two.reshape(-1, 3) == (9, 200, 9)).all(axis=1).sum() > 100  # the legend shows the colour


def test_many_classes_wrap_in_the_legend():
    cells = [np.zeros((32, 32, 3), np.uint8)] * 4
    names = [f"a_long_class_name_{i}" for i in range(30)]
    assert sheet([cells], ["a"], names, [(i, i, i) for i in range(30)]).shape[1] == sheet([cells], ["a"], ["x"], [(0, 0, 0)]).shape[1]


def test_curves_are_drawn_also_without_validation_and_with_absent_classes(tmp_path):
    lines = [{"step": i, "epoch": i + 1, "train": {"loss": 1 / (i + 1)}} for i in range(3)]
    for name, extra in (("bare", {}), ("full", {"val": {"mean_iou": 0.5, "iou": {"a": 0.5, "b": float("nan")}}})):
        (tmp_path / "log.jsonl").write_text("\n".join(json.dumps(plain(line | extra)) for line in lines))
        assert Image.open(draw_curves(tmp_path / "log.jsonl", tmp_path / f"{name}.png")).width > 800


def test_overlays_leave_the_background_alone_and_draw_borders():
    image = np.full((5, 5, 3), 100, np.uint8)
    label = np.zeros((5, 5), np.uint8)
    label[2:, 2:] = 1
    drawn = overlay(image, label, [(0, 0, 0), (255, 0, 0)])
    assert drawn[0, 0].tolist() == [100, 100, 100]
    assert drawn[4, 4].tolist() == [162, 60, 60]
    assert drawn[2, 2].tolist() == [255, 64, 64]


def test_16_bit_pictures_are_stretched_and_ignored_pixels_grey():
    deep = np.linspace(1000, 3000, 100).astype(np.uint16).reshape(10, 10, 1)
    assert viewable(deep).min() == 0
    assert viewable(deep).max() == 255
    assert colourise(np.array([[255]]), [(0, 0, 0)]).tolist() == [[[128, 128, 128]]]

import json

import matplotlib.figure
import numpy as np
import pytest
from PIL import Image

from kanseg.training.run_folder.logging import plain, read_log
from kanseg.visualization.curves import draw_curves


def write(path, lines):
    path.write_text("\n".join(json.dumps(plain(line)) for line in lines))
    return path


def epochs(count, **val):
    return [
        {"step": 2 * i + 2, "epoch": i + 1, "train": {"loss": 10.0**-i}}
        | ({"val": val} if val else {})
        for i in range(count)
    ]


@pytest.fixture
def figure(tmp_path, monkeypatch):
    """Draws a log and gives the axes that came of it."""
    kept, original = [], matplotlib.figure.Figure.savefig

    def savefig(self, *args, **kwargs):
        kept.append(self)
        original(self, *args, **kwargs)

    def draw(lines, **options):
        log = read_log(write(tmp_path / "log.jsonl", lines))
        drawn = draw_curves(log, tmp_path / "curves.png", **options)
        assert Image.open(drawn).width > 800
        return kept[-1].axes

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", savefig)
    return draw


def line(axis, label):
    return next(drawn for drawn in axis.lines if drawn.get_label() == label)


def test_curves_show_what_was_logged_and_mark_the_best_epoch(figure):
    steps = [{"step": i, "epoch": 1, "loss": 2.0, "lr": 0.1 * i} for i in (1, 2, 3)]
    loss, scores, rates = figure(
        [*steps, *epochs(3, foreground_iou=0.5, loss=0.7, iou={"a": 0.4, "b": None})], best_epoch=2
    )
    assert line(loss, "training").get_ydata().tolist() == [1, 0.1, 0.01]
    assert line(loss, "validation").get_ydata().tolist() == [0.7] * 3
    assert loss.get_yscale() == "log"
    assert line(scores, "foreground_iou").get_ydata().tolist() == [0.5] * 3
    assert line(scores, "IoU a").get_ydata().tolist() == [0.4] * 3
    assert np.isnan(line(scores, "IoU b").get_ydata()).all()
    assert rates.lines[0].get_xdata().tolist() == [0.5, 1, 1.5]
    assert all(line(axis, "best: epoch 2").get_xdata()[0] == 2 for axis in (loss, scores, rates))


def test_without_validation_there_is_no_best_epoch(figure):
    loss, scores = figure(epochs(1), best_epoch=1)
    assert scores.get_title() == "no validation split"
    assert not scores.lines
    assert [drawn.get_label() for drawn in loss.lines] == ["training"]


def test_many_classes_are_one_entry_of_the_legend(figure):
    _, scores = figure(epochs(2, foreground_iou=0.5, iou={f"class {i}": 0.1 for i in range(21)}))
    assert [text.get_text() for text in scores.get_legend().get_texts()] == [
        "each of 21 classes",
        "foreground_iou",
    ]
    assert len(scores.lines) == 22


def test_scores_of_a_classifier_are_drawn_with_the_monitored_one(figure):
    _, scores = figure(epochs(2, top1=0.5, top5=None, mean_f1=0.4), monitor="top1")
    assert [drawn.get_label() for drawn in scores.lines] == ["mean_f1", "top1"]


def test_logs_with_gaps_and_bare_nan_are_drawn(figure, tmp_path):
    lines = epochs(3, foreground_iou=None, iou=None)
    lines[0]["train"]["loss"] = None
    loss, _ = figure(lines, best_epoch=None)
    assert line(loss, "training").get_ydata().tolist() == [0.1, 0.01]
    (tmp_path / "nan.jsonl").write_text(
        '{"step": 1, "epoch": 1, "train": {"loss": NaN}, "val": {"foreground_iou": NaN}}\n'
    )
    assert draw_curves(read_log(tmp_path / "nan.jsonl"), tmp_path / "nan.png").is_file()
    (tmp_path / "empty.jsonl").write_text("")
    assert draw_curves(read_log(tmp_path / "empty.jsonl"), tmp_path / "empty.png").is_file()

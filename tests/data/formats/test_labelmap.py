import numpy as np
import pytest
from PIL import Image

from kanseg.data import check_samples, read_label, read_voc
from kanseg.data.formats.labelmap import read_labelmap
from kanseg.utils.errors import InputError

COLORS = {"cell": (250, 50, 83), "background": (0, 0, 0), "nucleus": (36, 179, 83)}
LABEL = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)


def write(root, text):
    (root / "labelmap.txt").write_text(text)
    return root


def lines(colors):
    entries = (f"{name}:{','.join(map(str, rgb))}::\n" for name, rgb in colors.items())
    return "# label:color_rgb:parts:actions\n" + "".join(entries)


@pytest.fixture
def root(tmp_path):
    """An export of CVAT, the masks in its colors, with one list."""
    for folder in (
        "JPEGImages",
        "SegmentationClass",
        "SegmentationObject",
        "ImageSets/Segmentation",
    ):
        (tmp_path / folder).mkdir(parents=True)
    palette = np.array([COLORS[name] for name in ("background", "cell", "nucleus")], np.uint8)
    names = [f"f{number}" for number in range(12)]
    for name in names:
        Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / "JPEGImages" / f"{name}.jpg")
        Image.fromarray(palette[LABEL]).save(tmp_path / "SegmentationClass" / f"{name}.png")
    text = "\n".join(names[:10]) + "\n"
    (tmp_path / "ImageSets" / "Segmentation" / "default.txt").write_text(text)
    return write(tmp_path, lines(COLORS))


def test_classes_and_colors_are_those_of_the_file_and_the_background_first(root):
    folder = read_voc(root)
    assert folder.label_spec.classes == ("background", "cell", "nucleus")
    assert folder.label_spec.colors == [(0, 0, 0), (250, 50, 83), (36, 179, 83)]
    assert any("labelmap.txt: background, cell, nucleus" in n for n in folder.notes)
    samples = folder.samples("train")
    assert np.array_equal(read_label(samples[0], folder.label_spec), LABEL)
    assert check_samples(samples, folder.label_spec).faults == {}


def test_the_one_list_of_an_export_is_split(root):
    folder = read_voc(root)
    assert folder.split_by_hash
    parts = [{sample.name for sample in folder.samples(s)} for s in ("train", "val", "test")]
    assert all(parts)
    assert sorted(set.union(*parts)) == [f"f{number}" for number in range(10)]
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("f0\n")
    assert not read_voc(root).split_by_hash


def test_what_is_given_wins(root):
    classes = ["background", "a", "b"]
    palette = [list(COLORS[name]) for name in ("background", "nucleus", "cell")]
    label_spec = read_voc(root, {"classes": classes, "palette": palette}).label_spec
    assert label_spec.classes == ("background", "a", "b")
    assert label_spec.palette[1] == COLORS["nucleus"]


def test_void_and_a_background_of_another_name_or_none(tmp_path):
    notes = []
    text = "# x\nsky:0,0,0::\nroad:1,2,3:a,b:c\nignored:9,9,9::\n"
    found = read_labelmap(write(tmp_path, text), notes)
    assert (found["task"], found["classes"]) == ("binary", ("sky", "road"))
    assert found["palette"][255] == (9, 9, 9)
    found = read_labelmap(write(tmp_path, "a:1,2,3::\nb: 4, 5, 6 ::\n"), notes)
    assert found["classes"] == ("background", "a", "b")
    assert found["palette"][:3] == ((0, 0, 0), (1, 2, 3), (4, 5, 6))
    assert any("no background" in note for note in notes)
    found = read_labelmap(write(tmp_path, "background:::\nx:::\ny:::\n"), notes)
    assert found["palette"][:3] == ((0, 0, 0), (128, 0, 0), (0, 128, 0))
    assert read_labelmap(tmp_path / "nowhere", notes) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n", "line 1: expected NAME:RED,GREEN,BLUE"),
        ("background:0,0,0::\na:1,2::\n", "line 2: expected"),
        ("a:1,2,300::\n", "line 1: expected"),
        ("a:1,2,3::\na:4,5,6::\n", "'a' is listed twice"),
        ("a:1,2,3::\nb:1,2,3::\n", "'a' and 'b' have the same color"),
        ("a:1,2,3::\nb:::\n", "'b' has no color"),
        ("background:0,0,0::\n", "no class except the background"),
        ("# nothing\n", "no class except the background"),
    ],
)
def test_faults_are_named_by_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_labelmap(write(tmp_path, text), [])

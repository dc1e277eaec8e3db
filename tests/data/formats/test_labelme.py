import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from kanseg.config import DataConfig
from kanseg.data import check_data, open_data, read_label
from kanseg.data.formats.labelme import read_labelme
from kanseg.utils.errors import InputError

SIZE = (24, 32)
NAMES = [f"cell{i}" for i in range(6)]


def png_base64(mask):
    stream = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(stream, format="PNG")
    return base64.b64encode(stream.getvalue()).decode()


def shape(label, points, kind="polygon", **changes):
    """As labelme 5 writes it."""
    return {
        "label": label,
        "points": points,
        "group_id": None,
        "description": "",
        "shape_type": kind,
        "flags": {},
        "mask": None,
    } | changes


def content(name, shapes, **changes):
    return {
        "version": "5.7.0",
        "flags": {"blurred": False},
        "shapes": shapes,
        "imagePath": name,
        "imageData": None,
        "imageHeight": SIZE[0],
        "imageWidth": SIZE[1],
    } | changes


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2))


def image(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


SQUARE = [[2, 1], [10, 1], [10, 5], [2, 5]]
ROD = [[12.0, 10.0], [30.0, 20.0]]  # opposite corners


@pytest.fixture
def root(tmp_path):
    for seed, name in enumerate(NAMES):
        image(tmp_path / f"{name}.jpg", seed)
        shapes = [shape("nucleus", SQUARE), shape("rod", ROD, "rectangle")]
        write(tmp_path / f"{name}.json", content(f"{name}.jpg", shapes))
    return tmp_path


def truth():
    mask = np.zeros(SIZE, np.uint8)
    mask[1:5, 2:10] = 1
    mask[10:20, 12:30] = 2
    return mask


def labels(index):
    return {s.name: read_label(s, index.label_spec) for s in index.samples(list(index.splits))}


def only_label(root, shapes, **settings):
    """The label of an image with these shapes."""
    write(root / f"{NAMES[0]}.json", content(f"{NAMES[0]}.jpg", shapes))
    index = read_labelme(root, settings)
    return labels(index)[NAMES[0]], index


def test_json_files_beside_images_are_found_read_and_checked(root):
    lines = []
    index = open_data(DataConfig(root=str(root)), log=lines.append)
    assert any("LABELME" in line for line in lines)
    assert index.label_spec.classes == ("background", "nucleus", "rod")
    assert sorted(labels(index)) == NAMES
    assert all(np.array_equal(label, truth()) for label in labels(index).values())
    report = check_data(DataConfig(root=str(root)), everything=True)
    assert report.issues == []


def test_the_order_of_labels_txt_is_that_of_the_classes(root):
    (root / "labels.txt").write_text("__ignore__\n_background_\nrod\nunused\nnucleus\n")
    assert read_labelme(root).label_spec.classes == ("background", "rod", "unused", "nucleus")


def test_shapes_of_all_kinds_have_their_pixels(root):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    label, _ = only_label(root, [shape("nucleus", [[16, 12], [16, 20]], "circle")])
    assert np.array_equal(label == 1, (rows - 12) ** 2 + (columns - 16) ** 2 < 64)
    tilted = [[8, 2.2], [13.8, 8], [8, 13.8], [2.2, 8]]
    label, _ = only_label(root, [shape("nucleus", tilted, "oriented_rectangle")])
    assert np.array_equal(label == 1, abs(rows - 8) + abs(columns - 8) < 5.8)
    mask = np.random.default_rng(0).random((4, 6)) > 0.5
    label, _ = only_label(root, [shape("rod", [[3, 5], [8, 8]], "mask", mask=png_base64(mask))])
    expected = np.zeros(SIZE, bool)
    expected[5:9, 3:9] = mask
    assert np.array_equal(label == 2, expected)


def test_lines_are_ten_pixels_wide_and_points_left_out_and_both_are_said(root):
    shapes = [
        shape("nucleus", [[0, 12], [32, 12]], "line"),
        shape("rod", [[3, 3]], "point"),
    ]
    label, index = only_label(root, shapes)
    expected = np.zeros(SIZE, int)
    expected[7:17] = 1
    assert np.array_equal(label, expected)
    assert any("1 lines are drawn 10 pixels wide" in note for note in index.notes)
    assert any("1 points" in note for note in index.notes)


def test_a_strip_of_lines_has_round_corners(root):
    label, _ = only_label(root, [shape("nucleus", [[6, 6], [26, 6], [26, 20]], "linestrip")])
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    corner = (columns > 26) & (rows < 6)
    assert np.array_equal(
        (label == 1)[corner], ((rows - 6) ** 2 + (columns - 26) ** 2 < 25)[corner]
    )
    assert label[3, 10] == label[15, 24] == 1


def test_a_mask_is_cut_at_the_border_of_the_image(root):
    corners = [[28.0, 20.0], [35.0, 27.0]]
    mask = png_base64(np.ones((8, 8)))
    label, _ = only_label(root, [shape("rod", corners, "mask", mask=mask)])
    expected = np.zeros(SIZE, bool)
    expected[20:, 28:] = True
    assert np.array_equal(label == 2, expected)


def test_smaller_shapes_lie_on_larger_ones_and_a_group_counts_as_one(root):
    large = shape("nucleus", [[0, 0], [20, 0], [20, 20], [0, 20]])
    small = shape("rod", [[2, 2], [6, 2], [6, 6], [2, 6]])
    label, _ = only_label(root, [small, large])
    assert label[3, 3] == 2
    far = shape("rod", [[21, 0], [32, 0], [32, 24], [21, 24]], group_id=7)
    more = shape("rod", [[0, 21], [20, 21], [20, 24], [0, 24]], group_id=7)
    wide = shape("rod", [[0, 10], [20, 10], [20, 20], [0, 20]], group_id=7)
    label, _ = only_label(root, [small | {"group_id": 7}, far, more, wide, large])
    assert label[3, 3] == 1  # the group covers more pixels than the large shape


def test_ignored_shapes_and_holes_of_the_background(root):
    shapes = [
        shape("nucleus", [[0, 0], [20, 0], [20, 20], [0, 20]]),
        shape("_background_", [[2, 2], [6, 2], [6, 6], [2, 6]]),
        shape("__ignore__", [[20, 0], [32, 0], [32, 24], [20, 24]]),
    ]
    label, index = only_label(root, shapes)
    assert index.label_spec.classes == ("background", "nucleus", "rod")
    assert (label[3, 3], label[10, 10], label[3, 25]) == (0, 1, 255)


def test_a_multilabel_task_keeps_overlaps(root):
    shapes = [shape("nucleus", SQUARE), shape("rod", SQUARE)]
    label, index = only_label(root, shapes, task="multilabel")
    assert index.label_spec.classes == ("nucleus", "rod")
    assert label.sum(axis=(1, 2)).tolist() == [32, 32]


def test_images_in_another_folder_and_paths_of_another_computer(tmp_path):
    for seed, name in enumerate(NAMES):
        image(tmp_path / "photos" / f"{name}.png", seed)
        path = f"..\\photos\\{name}.png" if seed % 2 else f"C:\\work\\{name}.png"
        write(tmp_path / "json" / f"{name}.json", content(path, [shape("nucleus", SQUARE)]))
    index = read_labelme(tmp_path)
    assert {s.image.parent.name for s in index.samples(list(index.splits))} == {"photos"}


def test_folders_of_splits_and_split_files(tmp_path):
    for split, folder in (("train", "Training"), ("val", "valid"), ("test", "test")):
        for seed, name in enumerate(NAMES[:2]):
            image(tmp_path / folder / f"{name}.jpg", seed)
            shapes = [shape("nucleus", SQUARE)]
            write(tmp_path / folder / f"{name}.json", content(f"{name}.jpg", shapes))
        members = read_labelme(tmp_path).splits[split]
        assert [sample.image.parent.name for sample in members] == [folder] * 2
    assert {split: len(some) for split, some in read_labelme(tmp_path).splits.items()} == {
        "train": 2,
        "val": 2,
        "test": 2,
    }


def test_split_files_divide_the_images(root):
    for split, names in (("train", NAMES[:3]), ("val", NAMES[3:5])):
        (root / f"{split}.txt").write_text("\n".join(names))
    index = read_labelme(root)
    assert [s.name for s in index.samples("val")] == NAMES[3:5]
    assert [s.name for s in index.unlisted] == NAMES[5:]


def test_images_without_a_file_are_left_out_and_said(root):
    (root / f"{NAMES[0]}.json").unlink()
    index = read_labelme(root)
    assert NAMES[0] not in labels(index)
    assert any("1 images without a JSON file" in note for note in index.notes)


def test_a_broken_file_is_one_fault_of_its_image(root):
    (root / "cell3.json").write_text('{"version": "5.0.1", "shapes": [')
    report = check_data(DataConfig(root=str(root)), everything=True)
    assert [(issue.code, issue.file) for issue in report.errors] == [("label", "cell3.json")]
    assert "not valid JSON" in report.errors[0].reason
    assert [sample.name for sample in report.bad] == ["cell3"]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (shape("rod", [[1, 2], [3, "x"]]), r"shapes\[0\] \(rod, polygon\)"),
        (shape("rod", [[1, 2], [3, float("nan")]]), "out of range"),
        (shape("rod", [[1, 2]], "circle"), r"shapes\[0\] \(rod, circle\)"),
        (shape("rod", [[1, 2]], "star"), "'star', not one of polygon"),
        (shape("rod", ROD, "mask"), "no mask"),
        (shape("rod", ROD, "mask", mask="AAAA"), "damaged or truncated"),
        ({"points": SQUARE}, "no label"),
    ],
)
def test_shapes_that_cannot_be_read_are_named(root, broken, message):
    write(root / "cell3.json", content("cell3.jpg", [broken]))
    index = read_labelme(root)
    sample = next(s for s in index.samples(list(index.splits)) if s.name == "cell3")
    with pytest.raises(InputError, match=rf"cell3\.json: .*{message}"):
        read_label(sample, index.label_spec)


def test_images_that_are_only_inside_the_json_say_how_to_write_them(tmp_path):
    for seed, name in enumerate(NAMES):
        image(tmp_path / "other" / f"{name}.jpg", seed)
        data = base64.b64encode((tmp_path / "other" / f"{name}.jpg").read_bytes()).decode()
        (tmp_path / "other" / f"{name}.jpg").unlink()
        write(
            tmp_path / f"{name}.json",
            content(f"{name}.jpg", [shape("nucleus", SQUARE)], imageData=data),
        )
    with pytest.raises(InputError, match=r"cell0\.json: .*imageData; 6 of 6 files") as caught:
        read_labelme(tmp_path)
    code = str(caught.value).split('python -c "')[1].removesuffix('"')
    exec(compile(code, "message", "exec"), {})  # noqa: S102 - the command of the message
    assert sorted(labels(read_labelme(tmp_path))) == NAMES


def test_an_image_that_does_not_exist_is_a_fault_of_its_sample(root):
    (root / "cell2.jpg").unlink()
    report = check_data(DataConfig(root=str(root)), everything=True)
    assert [(issue.code, issue.file) for issue in report.errors] == [("missing", "cell2.jpg")]


def test_two_files_of_one_image_are_refused(root):
    write(root / "again" / "cell0.json", content("../cell0.jpg", [shape("rod", ROD, "rectangle")]))
    with pytest.raises(InputError, match=r"of the same image cell0\.jpg"):
        read_labelme(root)

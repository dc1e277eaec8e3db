import json

import numpy as np
import pytest
from PIL import Image

from kanseg.config import DataConfig
from kanseg.data import check_data, open_data, read_label
from kanseg.data.formats.label_studio import read_label_studio
from kanseg.utils.errors import InputError

SIZE = (24, 32)
NAMES = [f"leaf{i}.jpg" for i in range(6)]


def brush(mask, widths=(3, 4, 8, 16), literal=False):
    """A mask as Label Studio's editor stores a brush stroke: RGBA values in the coding of rle-pack,
    a run of one value at a time, or (literal) values one by one.
    """
    values = np.repeat(mask.ravel().astype(np.uint8) * 255, 4).tolist()
    bits = f"{len(values):032b}{8 - 1:05b}" + "".join(f"{width - 1:04b}" for width in widths)
    position = 0
    while position < len(values):
        run = 1
        limit = min(len(values) - position, 2 ** widths[-1])
        if literal:
            run = min(limit, 2 ** widths[1])
            values_bits = "".join(f"{v:08b}" for v in values[position : position + run])
        else:
            while run < limit and values[position + run] == values[position]:
                run += 1
            values_bits = f"{values[position]:08b}"
        which = next(i for i, width in enumerate(widths) if run <= 2**width)
        bits += f"{int(not literal)}{which:02b}{run - 1:0{widths[which]}b}{values_bits}"
        position += run
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def result(kind, value, **changes):
    return {
        "id": "qd1jIVAq1h",
        "type": kind,
        "value": value,
        "origin": "manual",
        "to_name": "image",
        "from_name": "label",
        "image_rotation": 0,
        "original_width": SIZE[1],
        "original_height": SIZE[0],
    } | changes


def polygon(label, points):
    """Points in pixels."""
    percent = [[100 * x / SIZE[1], 100 * y / SIZE[0]] for x, y in points]
    return result("polygonlabels", {"points": percent, "polygonlabels": [label], "closed": True})


def stroke(label, mask, **options):
    value = {"rle": brush(mask, **options), "format": "rle", "brushlabels": [label]}
    return result("brushlabels", value)


def annotation(results, **changes):
    return {
        "id": 22,
        "completed_by": 1,
        "result": results,
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": "2024-01-31T07:40:19.861611Z",
        "updated_at": "2024-01-31T07:40:19.861611Z",
        "lead_time": 19.2,
    } | changes


def task(number, image, annotations, **changes):
    return {
        "id": number,
        "annotations": annotations,
        "file_upload": f"e97d4735-{NAMES[0]}",
        "drafts": [],
        "predictions": [{"result": [polygon("ghost", SQUARE)]}],
        "data": {"image": image},
        "meta": {},
        "project": 132,
    } | changes


SQUARE = [(2, 1), (10, 1), (10, 5), (2, 5)]


def rod():
    mask = np.zeros(SIZE, bool)
    mask[10:20, 12:30] = np.random.default_rng(0).random((10, 18)) > 0.2
    return mask


def truth():
    mask = np.zeros(SIZE, np.uint8)
    mask[1:5, 2:10] = 1
    mask[rod()] = 2
    return mask


def write(root, tasks, name="project-132-at-2024-01-31-07-41-5c1ad2a3.json"):
    (root / name).write_text(json.dumps(tasks))


def image(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def one(results, **changes):
    """Tasks of which the first has these results."""
    tasks = []
    for number, name in enumerate(NAMES):
        tasks.append(
            task(
                number,
                f"/data/upload/132/{number:08x}-{name}",
                [annotation([polygon("leaf", SQUARE), stroke("rod", rod())])],
            )
        )
    tasks[0]["annotations"] = [annotation(results, **changes)]
    return tasks


@pytest.fixture
def root(tmp_path):
    for seed, name in enumerate(NAMES):
        image(tmp_path / "images" / name, seed)
    write(tmp_path, one([polygon("leaf", SQUARE), stroke("rod", rod())]))
    return tmp_path


def labels(index):
    return {s.name: read_label(s, index.label_spec) for s in index.samples(list(index.splits))}


def first_label(root, results, **settings):
    write(root, one(results))
    index = read_label_studio(root, settings)
    return labels(index)["leaf0"]


def test_the_json_export_is_found_read_and_checked(root):
    lines = []
    index = open_data(DataConfig(root=str(root)), log=lines.append)
    assert any("LABEL_STUDIO" in line for line in lines)
    assert index.label_spec.classes == ("background", "leaf", "rod")
    assert sorted(labels(index)) == [name[:-4] for name in NAMES]
    assert all(np.array_equal(label, truth()) for label in labels(index).values())
    report = check_data(DataConfig(root=str(root)), everything=True)
    assert report.issues == []


@pytest.mark.parametrize("options", [{}, {"literal": True}, {"widths": (1, 2, 5, 9)}])
def test_brush_strokes_are_decoded(root, options):
    for seed in range(3):
        mask = np.random.default_rng(seed).random(SIZE) > 0.3 + 0.2 * seed
        assert np.array_equal(first_label(root, [stroke("rod", mask, **options)]) == 2, mask)


@pytest.mark.parametrize(
    "stored",
    [
        "/data/local-files/?d=photos%2Ffield/{name}",
        "/data/local-files?d=photos/field/{name}",
        "s3://bucket/photos/field/{name}",
        "https://example.com/field/{name}?X-Amz-Signature=a",
        "/data/upload/7/0a1b2c3d-{name}",
        "upload/7/0a1b2c3d-{name}",
        "/storage-data/uploaded/?filepath=upload/7/0a1b2c3d-{name}",
    ],
)
def test_images_are_found_by_the_end_of_their_path(tmp_path, stored):
    tasks = []
    for number, name in enumerate(NAMES):
        image(tmp_path / "photos" / "field" / name, number)
        image(tmp_path / "photos" / "lab" / f"x{name}", number + 10)
        where = stored.format(name=name)
        tasks.append(task(number, where, [annotation([polygon("leaf", SQUARE)])]))
    write(tmp_path, tasks)
    index = read_label_studio(tmp_path)
    found = {sample.image.name for sample in index.samples(list(index.splits))}
    assert found == set(NAMES)


def test_images_that_kept_the_prefix_of_uploads_are_found(root):
    for number, name in enumerate(NAMES):
        (root / "images" / name).rename(root / "images" / f"{number:08x}-{name}")
    assert "00000000-leaf0" in labels(read_label_studio(root))


def test_of_several_annotations_the_ground_truth_or_the_last_is_read(root):
    early, late = "2024-01-01T00:00:00Z", "2024-02-02T00:00:00Z"
    tasks = one([])
    tasks[0]["annotations"] = [
        annotation([polygon("leaf", SQUARE)], updated_at=late),
        annotation([stroke("rod", rod())], updated_at=early),
        annotation([polygon("rod", SQUARE)], updated_at="2025-01-01", was_cancelled=True),
    ]
    write(root, tasks)
    index = read_label_studio(root)
    assert np.unique(labels(index)["leaf0"]).tolist() == [0, 1]
    assert any("1 images have several annotations" in note for note in index.notes)
    tasks[0]["annotations"][1]["ground_truth"] = True
    write(root, tasks)
    assert np.unique(labels(read_label_studio(root))["leaf0"]).tolist() == [0, 2]


def test_tasks_without_annotation_are_left_out_and_empty_ones_are_not(root):
    tasks = one([])
    tasks[1]["annotations"] = []
    tasks[2]["annotations"] = [annotation([polygon("leaf", SQUARE)], was_cancelled=True)]
    write(root, tasks)
    index = read_label_studio(root)
    assert sorted(labels(index)) == ["leaf0", "leaf3", "leaf4", "leaf5"]
    assert not labels(index)["leaf0"].any()
    assert any("2 tasks without an annotation" in note for note in index.notes)


def test_rectangles_and_ellipses_may_be_turned(root):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    box = {"x": 50, "y": 25, "width": 25, "height": 12.5, "rotation": 90}
    label = first_label(root, [result("rectanglelabels", box | {"rectanglelabels": ["rod"]})])
    # turned clockwise about its corner (16, 6): 8 wide and 3 high become 3 wide, to the left
    assert np.array_equal(label == 2, (columns > 13) & (columns < 16) & (rows > 6) & (rows < 14))
    oval = {"x": 50, "y": 50, "radiusX": 25.6, "radiusY": 12.8, "rotation": 0}
    label = first_label(root, [result("ellipselabels", oval | {"ellipselabels": ["rod"]})])
    inside = ((columns - 16) / 8.192) ** 2 + ((rows - 12) / 3.072) ** 2 < 1
    assert np.array_equal(label == 2, inside)


def test_an_object_with_two_labels_is_one_of_each(root):
    both = polygon("leaf", SQUARE)
    both["value"]["polygonlabels"] = ["leaf", "rod"]
    label = first_label(root, [both], task="multilabel")
    assert label.sum(axis=(1, 2)).tolist() == [32, 32]


def test_shapes_and_labels_of_two_tags_are_read_once_and_others_are_said(root):
    shape = polygon("leaf", SQUARE)
    points = {"points": shape["value"]["points"]}
    results = [
        result("polygon", points, id="a"),
        result("labels", points | {"labels": ["leaf"]}, id="a"),
        result("choices", {"choices": ["good"]}, id="b"),
    ]
    write(root, one(results))
    index = read_label_studio(root)
    assert (labels(index)["leaf0"] == 1).sum() == 32
    assert any(note.endswith("1 choices") for note in index.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"original_width": None}, "no original_width"),
        ({"image_rotation": 90}, "rotated by 90"),
        ({"value": {"points": [[1, "x"]], "polygonlabels": ["leaf"]}}, "cannot be read"),
        ({"value": {"rle": [0, 0, 1], "brushlabels": ["leaf"]}}, "ends too early"),
        ({"value": {"rle": "text", "brushlabels": ["leaf"]}}, "not a list of bytes"),
        ({"value": {"rle": brush(np.ones((3, 3))), "brushlabels": ["leaf"]}}, "36 values"),
        ({"value": {"rle": [300], "brushlabels": ["leaf"]}}, "cannot be drawn"),
    ],
)
def test_a_broken_result_is_one_fault_of_its_image(root, change, message):
    write(root, one([polygon("leaf", SQUARE) | change]))
    report = check_data(DataConfig(root=str(root)), everything=True)
    assert [(issue.code, issue.file) for issue in report.errors] == [
        ("label", "project-132-at-2024-01-31-07-41-5c1ad2a3.json")
    ]
    assert message in report.errors[0].reason


def test_an_export_without_its_images_says_where_to_put_them(root):
    for path in (root / "images").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"none of the 6 images exists.*leaf0\.jpg, leaf1"):
        read_label_studio(root)


def test_json_min_and_brush_files_alone_say_what_to_export(root):
    (flat,) = root.glob("*.json")
    flat.write_text(json.dumps([{"id": 1, "image": "a.jpg", "annotator": 1, "label": []}]))
    data = DataConfig(root=str(root))
    with pytest.raises(InputError, match="not JSON-MIN"):
        open_data(data)
    flat.unlink()
    (root / "task-1-annotation-2-by-1-tag-leaf-0.png").write_bytes(b"")
    with pytest.raises(InputError, match="export as JSON too"):
        open_data(data)

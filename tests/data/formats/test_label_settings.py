import numpy as np
import pytest
import yaml
from PIL import Image

from conftest import make_folder
from kanseg.data import read_label
from kanseg.data.formats.folder import read_folder
from kanseg.utils.errors import InputError


def test_masks_of_0_and_255_are_read_as_binary_and_reported(folder):
    found = read_folder(folder)
    assert (found.label_spec.task, found.label_spec.mask_values, found.label_spec.num_logits) == (
        "binary",
        {0: 0, 255: 1},
        1,
    )
    assert "0 and 255" in found.notes[0]


def test_masks_of_indices_are_read_as_classes(tmp_path):
    found = read_folder(make_folder(tmp_path / "set", classes=4))
    assert (found.label_spec.task, found.label_spec.classes) == (
        "multiclass",
        ("class_0", "class_1", "class_2", "class_3"),
    )


def test_dataset_yaml_and_overrides_decide(folder):
    (folder / "dataset.yaml").write_text(
        yaml.safe_dump(
            {"task": "binary", "classes": ["tissue", "gland"], "mask_values": {0: 0, 255: 1}}
        )
    )
    assert read_folder(folder).label_spec.classes == ("tissue", "gland")
    assert read_folder(folder, {"classes": ["a", "b"]}).label_spec.classes == ("a", "b")


def test_the_task_follows_from_the_number_of_classes(tmp_path):
    root = make_folder(tmp_path / "set", classes=2)
    assert read_folder(root, {"classes": ["a", "b", "c"]}).label_spec.task == "multiclass"
    assert read_folder(root, {"classes": ["a", "b"]}).label_spec.task == "binary"


def test_a_stray_value_among_0_and_255_does_not_turn_the_foreground_into_ignored_pixels(folder):
    mask = np.array(Image.open(folder / "masks" / "p03.png"))
    mask[0, 0] = 7
    Image.fromarray(mask).save(folder / "masks" / "p03.png")
    index = read_folder(folder)
    assert index.label_spec.mask_values == {0: 0, 255: 1}
    assert any("(7): p03.png" in note for note in index.notes)
    (sample,) = [sample for sample in index.samples("val") if sample.name == "p03"]
    with pytest.raises(InputError, match="value 7 at row 0, column 0 "):
        read_label(sample, index.label_spec)


def test_values_without_a_majority_of_masks_are_refused(tmp_path):
    root = make_folder(tmp_path / "set", count=4)
    for name in ("p00", "p01"):
        Image.fromarray(np.full((32, 40), 7, np.uint8)).save(root / "masks" / f"{name}.png")
    with pytest.raises(InputError, match=r"values 0, 1, 7; .*p00\.png holds 7"):
        read_folder(root)


def test_sixteen_bit_values_can_be_mapped(folder):
    for path in (folder / "masks").iterdir():
        values = np.array(Image.open(path)).astype(np.uint16) * 257
        Image.fromarray(values).save(path)
    assert (
        read_folder(
            folder, {"task": "binary", "classes": ["a", "b"], "mask_values": {0: 0, 65535: 1}}
        ).label_spec.num_logits
        == 1
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("clases: [a, b]", "unknown key 'clases'; did you mean 'classes'"),
        ("task: binari\nclasses: [a, b]", "'binari' is not one of"),
        ("task: binary\nclasses: [a]", "two classes"),
        ("task: [", "not valid YAML"),
        ("just text", "expected `key: value`"),
        ("task: binary\nclasses: [a, b]\nmask_values: 3", "mask_values must be a map"),
        ("task: binary\nclasses: [a, b]\nmask_values: {0: 0, 255: 7}", "255: 7"),
        ("task: binary\nclasses: [a, b]\nmask_values: {0: 0, x: 1}", "map of integers"),
        ("classes: abc", "list of names, got 'abc'"),
        ("classes: {0: a, 1: b}", "list of names"),
        ("classes: [a, a, b]\nmask_values: {0: 0, 255: 1}", "different names"),
        (
            "task: binary\nclasses: [a, b]\nignore_index: -1",
            "ignore_index must be an integer from 0 to 255",
        ),
        ("task: binary\nclasses: [a, b]\nignore_index: '255'", "ignore_index must be an integer"),
        ("classes: [a, b, c]\npalette: [[0, 0, 0], [1, 1, 1], [2, 2]]", "palette must be a list"),
        (
            "classes: [a, b, c]\npalette: [[0, 0, 0], [1, 1, 1], [2, 2, 300]]",
            "palette must be a list",
        ),
        ("classes: [a, b, c]\npalette: [[0, 0, 0]]", "1 colors for 3 classes"),
        ("ignore_index: 255", "ignore_index is 255; give mask_values"),
    ],
)
def test_faults_of_dataset_yaml_are_named(folder, content, message):
    (folder / "dataset.yaml").write_text(content)
    with pytest.raises(InputError, match=message):
        read_folder(folder)


def test_no_and_yes_are_names_of_classes(folder):
    (folder / "dataset.yaml").write_text("classes: [no, yes]\nmask_values: {0: 0, 255: 1}\n")
    assert read_folder(folder).label_spec.classes == ("no", "yes")
    (folder / "dataset.yaml").write_text("classes: [2001-99-99, off]\nmask_values: {0: 0, 255: 1}")
    assert read_folder(folder).label_spec.classes == ("2001-99-99", "off")


@pytest.mark.parametrize(
    "text",
    [
        *("classes: !!int x", "ignore_index: " + "9" * 5000, "classes: " + "[" * 3000),
        *("classes: [a, b]\nclasses: [c, d]", "task: \x00", "task: !!python/object:os.x {}"),
        "a: &a [x]\n" + "\n".join(f"b{i}: &a [{', '.join(['*a'] * 9)}]" for i in range(30)),
        'classes: ["a", "b\\0"]\nmask_values: {0: 0, 255: 1}',
        'classes: ["a", "\\e[31mb"]\nmask_values: {0: 0, 255: 1}',
    ],
)
def test_a_damaged_or_hostile_dataset_yaml_is_an_input_error(folder, text):
    (folder / "dataset.yaml").write_text(text)
    with pytest.raises(InputError):
        read_folder(folder)

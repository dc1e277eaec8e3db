import pytest
from commands import kanseg_command

from conftest import make_folder
from kanseg.config import Config, parse_config
from kanseg.data.formats.folder import read_folder
from kanseg.experiments.compare.variants import read_variants
from kanseg.utils.errors import InputError
from kanseg.utils.reading import parse_yaml
from kanseg.utils.yaml_names import quoted_list

# Words that YAML 1.1 (or jsonargparse) reads as something else than text.
WORDS = (
    *("no", "yes", "on", "off", "No", "TRUE", "false", "null", "~", "y", "n"),
    *("1", "010", "0x1F", "1_000", "1.50", "1e3", "1E-3", ".5", ".inf", ".nan", "+1", "12:30:45"),
    *("2001-01-01", "2001-99-99", "=", "<<", "it's"),
)
LIST = f"[{', '.join(WORDS)}]"
BLOCK = "".join(f"\n  - {word}" for word in WORDS)


@pytest.mark.parametrize("text", [f"classes: {LIST}", f"classes:{BLOCK}\n", f"{{classes: {LIST}}}"])
def test_names_are_the_words_that_were_written(text):
    assert parse_yaml(text) == {"classes": list(WORDS)}


def test_quoted_words_comments_and_other_settings_stay_as_they_are():
    text = """
classes: ["no", 'it''s', yes]  # no, yes
ignore_index: 255
mask_values: {0: 0, 255: 1}
data: {train: [no, "on"], resize: [1, 2], skip_bad: yes}
model: {options: {norm: on, train: [no]}}
"""
    assert parse_yaml(text) == {
        "classes": ["no", "it's", "yes"],
        "ignore_index": 255,
        "mask_values": {0: 0, 255: 1},
        "data": {"train": ["no", "on"], "resize": [1, 2], "skip_bad": "yes"},
        "model": {"options": {"norm": "on", "train": ["no"]}},
    }


@pytest.mark.parametrize(
    "text", ["", "a: [", "[" * 3000, "no", "{a: no}", "[&a no, *a, !!int 1]", "\0"]
)
def test_what_is_no_list_of_names_is_left_to_whoever_loads_it(text):
    assert quoted_list(text) == text


@pytest.mark.parametrize("way", ["yaml", "file", "words", "word"])
def test_settings_keep_names_by_every_way(way, tmp_path):
    text = f"data: {{classes: {LIST}, train: [no, 2020]}}\n"
    if way == "yaml":
        config = Config.from_yaml(text)
    elif way == "file":
        (tmp_path / "a.yaml").write_text(text)
        config, _ = parse_config(["--config", str(tmp_path / "a.yaml")])
    elif way == "words":
        config, _ = parse_config(["--data.classes", LIST, "--data.train=[no, 2020]"])
    else:
        config, _ = parse_config(["--data", f"{{classes: {LIST}, train: [no, 2020]}}"])
    assert config.data.classes == list(WORDS)
    assert config.data.train == ["no", "2020"]
    assert Config.from_yaml(config.to_yaml()) == config
    (tmp_path / "stored.yaml").write_text(config.to_yaml())
    assert parse_config(["--config", str(tmp_path / "stored.yaml")])[0] == config


def test_numbers_truth_values_and_maps_of_other_settings_are_read_as_before():
    config, _ = parse_config(
        ["--training.lr", "1e-3", "--data.skip_bad", "yes", "--data.resize", "[8, 8]"]
    )
    assert (config.training.lr, config.data.skip_bad, config.data.resize) == (1e-3, True, [8, 8])
    config, _ = parse_config(["--model.options", "{width: 4, norm: layer, rate: 1e-1}"])
    assert config.model.options == {"width": 4, "norm": "layer", "rate": 0.1}


def test_dataset_yaml_keeps_names_and_refuses_what_is_no_name(tmp_path):
    root = make_folder(tmp_path / "set", classes=3)
    (root / "dataset.yaml").write_text("classes: [background, no, yes]\n")
    assert read_folder(root).label_spec.classes == ("background", "no", "yes")
    (root / "dataset.yaml").write_text("classes: [background, no, ]\n")
    assert read_folder(root).label_spec.classes == ("background", "no")
    (root / "dataset.yaml").write_text("classes:\n-\n- b")
    with pytest.raises(InputError, match="must be a list of names"):
        read_folder(root)


def test_the_check_takes_names_as_words(tmp_path):
    root = make_folder(tmp_path / "set", classes=3)
    done = kanseg_command("check", root, "--classes", "[background, off, on]")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "False" not in done.stdout
    assert "off" in done.stdout


def test_variants_and_their_settings_keep_names(tmp_path):
    (tmp_path / "a.yaml").write_text("data: {classes: [no, yes]}\n")
    (tmp_path / "variants.yaml").write_text(
        "no: {data.train: [off]}\nyes: {training.lr: 1e-2, data.train: [off]}\n"
    )
    variants = read_variants(
        [str(tmp_path / "a.yaml")], variants_file=str(tmp_path / "variants.yaml")
    )
    assert set(variants) == {"no", "yes"}
    assert [config.data.train for config in variants.values()] == [["off"], ["off"]]
    assert [config.data.classes for config in variants.values()] == [["no", "yes"]] * 2

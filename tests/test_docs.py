"""What the README and the pages of docs/ show is what the project does.

Chinese pages have the code blocks of the English ones but for comments (tested here), so that
running the English blocks runs both.
"""

import ast
import contextlib
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import kanseg
from conftest import make_folder
from kanseg.cli.main import VERBS, run
from kanseg.config import ClassificationConfig, Config, DataConfig, ModelConfig, TrainingConfig
from kanseg.config.builtin import with_config_files
from kanseg.data import Augmentation, ImageAugmentation
from kanseg.data.formats.label_settings import read_label_settings, read_layout_settings
from kanseg.experiments.search.space import read_space
from kanseg.training.run import train
from tests.inference.test_classifier import write_classifier

ROOT = Path(__file__).parents[1]
# page -> the same page in Chinese
TRANSLATED = {"README.md": "README.zh-CN.md", "data/README.md": "docs/data_sets.zh.md"}
for _path in sorted((ROOT / "docs").glob("*.zh.md")):
    if _path.name != "data_sets.zh.md":
        TRANSLATED[f"docs/{_path.name.replace('.zh.md', '.md')}"] = f"docs/{_path.name}"
# Pages of results are in English only, and so is the API, which is made from the docstrings.
ENGLISH_ONLY = ["docs/study.md", "docs/results.md", "docs/zoo.md"]
ENGLISH = [*TRANSLATED, *ENGLISH_ONLY]
PAGES = [*ENGLISH, *TRANSLATED.values()]
LANGUAGES = ("bash", "python", "text", "yaml")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)")
PROGRAMS = ("kanseg", "accelerate", "torchrun", "python")
# Commands that are not run, since they need a network or a cluster, install something, run these
# tests, or are long for what they show: the text that they have in common.
NOT_RUN = (
    "pip install",
    "-m pytest",
    "data.download",
    "cifar100",
    "data/camvid",
    "benchmark",
    "--study",
    "coarse_to_fine",
    "pretrained",
    "--demo",
    "http.server",
)
SMALL = ["--training.epochs", "1", "--training.report", "false", "--training.tensorboard", "false"]


def read(page):
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page, language):
    """The code of every block of a language."""
    return [code for found, code in FENCE.findall(read(page)) if found == language]


def commands(page):
    """The command lines of a page, in order, without comments."""
    lines = "".join(blocks(page, "bash")).splitlines()
    return [line.partition("  # ")[0] for line in lines if line.startswith(PROGRAMS)]


def words_of(command):
    """The verb of a command line and the words after it; (None, []) of other programs."""
    words = shlex.split(command)
    if "kanseg" not in words:
        return None, []
    start = words.index("kanseg") + 1
    return words[start], words[start + 1 :]


COMMANDS = [(page, line) for page in ENGLISH for line in commands(page)]
VERB_LINES = list(dict.fromkeys(line for _, line in COMMANDS if words_of(line)[0]))
PYTHON = [page for page in TRANSLATED if blocks(page, "python")]


def use_small_command(folder, monkeypatch):
    """Put a program `kanseg` on the path that is the command, but trains one epoch only."""
    program = folder / "kanseg"
    folder.mkdir()
    program.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        "from kanseg.cli.main import main\n"
        "from kanseg.config.builtin import with_config_files\n"
        "words = sys.argv[1:]\n"
        "if words[0] in ('train', 'classify', 'compare', 'search'):\n"
        "    words[1:] = with_config_files(words[1:])\n"
        "    if '--resume' not in words:\n"
        f"        words += {SMALL!r}\n"
        "if words[0] == 'compare' and '--study' not in words:\n"
        "    words += ['--data.resize', '[32, 32]']\n"
        "sys.argv[1:] = words\n"
        "main()\n"
    )
    program.chmod(0o755)
    paths = [str(folder), str(Path(sys.executable).parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(paths))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """A finished run of one tiny epoch."""
    folder = tmp_path_factory.mktemp("quickstart")
    config = Config(
        run_dir=str(folder / "run"),
        data=DataConfig(root=str(make_folder(folder / "set", scale=255)), workers=0),
        model=ModelConfig("unet", options={"width": 4, "depth": 2}),
        training=TrainingConfig(epochs=1, report=False, tensorboard=False),
    )
    train(config)
    return folder / "run"


@pytest.fixture
def user(quickstart, tmp_path, monkeypatch):
    """A folder in which a quickstart has run, with a data set `my_set`, an image, and weights of a
    layer of torch-conv-kan.
    """
    theirs = {
        "base_conv.0.weight": torch.ones(32, 16, 3, 3),
        "spline_conv.0.weight": torch.ones(32, 16 * 8, 3, 3),
        "prelus.0.weight": torch.ones(1),
    }
    torch.save(theirs, tmp_path / "theirs.pth")
    shutil.copytree(quickstart, tmp_path / "runs" / "quickstart")
    make_folder(tmp_path / "my_set", scale=255, count=9)
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "image.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def prepared(user, monkeypatch):
    """That folder, with everything else that the commands name."""
    for name in ("scans", "new_images", "data/glas/images"):
        (user / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(user / "image.jpg", user / name / "scan.jpg")
    shutil.rmtree(user / "data/glas")
    shutil.copytree(user / "my_set", user / "data/glas")
    shutil.copytree(user / "my_set/masks", user / "my_set/fov")
    for number in range(12):
        folder = user / "my_images" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    shutil.copytree(user / "my_set/images", user / "labelme_export")
    shape = {"label": "cell", "shape_type": "polygon", "points": [[4, 4], [20, 4], [20, 20]]}
    for image in (user / "labelme_export").glob("*.png"):
        drawn = {"imagePath": image.name, "shapes": [shape], "imageHeight": 32, "imageWidth": 40}
        image.with_suffix(".json").write_text(json.dumps(drawn))
    import cv2

    video = cv2.VideoWriter("film.mp4", cv2.VideoWriter_fourcc(*"mp4v"), 5, (40, 30))
    for _ in range(3):
        video.write(np.zeros((30, 40, 3), np.uint8))
    video.release()
    for name in ("configs", "docs/results"):
        shutil.copytree(ROOT / name, user / name)
    use_small_command(user / "bin", monkeypatch)
    return user


# -- blocks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_every_block_names_its_language(page):
    found = {language for language, _ in FENCE.findall(read(page))}
    assert found <= set(LANGUAGES)
    assert read(page).count("```") == 2 * len(FENCE.findall(read(page)))


@pytest.mark.parametrize("page", [page for page in PYTHON if page != "data/README.md"])
def test_the_python_blocks_of_a_page_run_and_give_the_shapes_that_they_state(user, page):
    names = {}
    if page == "docs/tutorial.md":  # the last block predicts with the run of the page
        shutil.copytree("runs/quickstart", "runs/cells")
    if page == "docs/classification.md":
        write_classifier(Path("runs/mine/best"))
    for code in blocks(page, "python"):
        if "integrations.ray" in code:  # slow: tests/integrations/test_ray.py runs it
            continue
        exec(compile(code, page, "exec"), names)
        for name, shape in re.findall(r"(?m)^(\w+) = .*# (\(\d[\d, ]+\))", code):
            assert tuple(names[name].shape) == ast.literal_eval(shape), name


def test_the_blocks_of_the_data_sets_run(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    make_folder(tmp_path / "data/busi", count=10)
    make_folder(tmp_path / "data/duts/train", count=1, scale=100)
    monkeypatch.chdir(tmp_path)
    for code in blocks("data/README.md", "python"):
        exec(compile(code, "data/README.md", "exec"), {})
    assert len(Path("data/busi/ukan_seed2981_val.txt").read_text().split()) == 2
    mask = np.array(Image.open(next(Path("data/duts").glob("*/masks/*.png"))))
    assert set(np.unique(mask)) <= {0, 255}


@pytest.mark.parametrize(
    "page, code", [(page, code) for page in ENGLISH for code in blocks(page, "yaml")]
)
def test_every_yaml_block_is_read(page, code, tmp_path):
    keys = set(yaml.safe_load(code))
    if keys <= {"run_dir", "seed", "data", "model", "training"}:
        kind, augmentation = Config, Augmentation
        if page == "docs/classification.md":
            kind, augmentation = ClassificationConfig, ImageAugmentation
        augmentation(kind.from_yaml(code).data.augment)
    elif "task" in keys:
        (tmp_path / "scans/raw").mkdir(parents=True)
        (tmp_path / "drawn").mkdir()
        (tmp_path / "dataset.yaml").write_text(code)
        assert {*read_label_settings(tmp_path, {}), *read_layout_settings(tmp_path)} == keys
    else:
        (tmp_path / "space.yaml").write_text(code)
        assert set(read_space(tmp_path / "space.yaml", Config())) == keys


# -- commands ---------------------------------------------------------------------------------


@cache
def help_of(*words):
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        run(words[0], [*words[1:], "--help"])
    return text.getvalue()


@pytest.mark.parametrize("command", VERB_LINES)
def test_every_option_of_a_command_exists(command):
    verb, words = words_of(command)
    if verb == "benchmark":
        listed = help_of(verb, words[0])
    elif "--study" in words:
        listed = help_of(verb, "--study", "x")
    else:
        listed = help_of(verb)
    if verb in ("search", "compare"):  # which take every setting of a training as well
        listed += help_of("train") + help_of("classify")
    for option in (word for word in words if word.startswith("--")):
        assert re.search(rf"{re.escape(option)}\b", listed), option
    for config in (word for word in words if word.startswith("configs/")):
        assert (ROOT / config).is_file()


@pytest.mark.parametrize(
    "command", [line for line in VERB_LINES if words_of(line)[0] in ("train", "classify")]
)
def test_every_setting_of_a_training_has_a_value_of_its_type(command, monkeypatch, capsys):
    verb, words = words_of(command)
    if any(word.startswith("runs/") and word.endswith(".yaml") for word in words):
        words[words.index("--config") + 1] = str(ROOT / "configs/glas_ukanet.yaml")
    with pytest.raises(SystemExit) as end:
        run(verb, [*with_config_files(words), "--print_config"])
    assert not end.value.code
    assert "run_dir:" in capsys.readouterr().out


@pytest.mark.parametrize("page, command", COMMANDS)
def test_scripts_of_tools_exist(page, command):
    for word in shlex.split(command):
        if word.startswith("tools/"):
            assert (ROOT / word).is_file()


def test_every_verb_is_explained():
    shown = {words_of(line)[0] for line in VERB_LINES}
    home = read("docs/index.md")
    later = {"formats"}
    assert {verb for verb in VERBS if f"`{verb}`" not in home} <= later
    assert set(VERBS) - shown - later == {"doctor"}


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in ENGLISH if commands(page)])
def test_the_commands_of_a_page_run_one_after_another(prepared, page):
    lines = [line for line in commands(page) if not any(part in line for part in NOT_RUN)]
    run_of_the_fixture = prepared / "run"
    shutil.move(prepared / "runs/quickstart", run_of_the_fixture)
    for line in lines:
        is_new = "--run_dir" in line or line == "kanseg train quickstart"
        for name in re.findall(r"runs/\w+", line.partition("--output")[0]):
            if not is_new and not (prepared / name).exists():
                shutil.copytree(run_of_the_fixture, prepared / name)
        done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


# -- notebook and site ------------------------------------------------------------------------


def make_notebook():
    path = ROOT / "docs" / "make_notebook.py"
    spec = importlib.util.spec_from_file_location("make_notebook", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make_notebook(read("docs/tutorial.md"))


def test_the_notebook_is_that_of_the_tutorial():
    assert read("docs/tutorial.ipynb") == make_notebook(), "run python docs/make_notebook.py"


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    notebook = nbformat.reads(make_notebook(), as_version=4)
    notebook.cells = [cell for cell in notebook.cells if "pip install" not in cell.source]
    for cell in notebook.cells:  # IPython goes on after a command that failed
        if cell.cell_type == "code" and cell.source.startswith("!"):
            cell.source += "\nassert _exit_code == 0"
    use_small_command(tmp_path / "bin", monkeypatch)
    resources = {"metadata": {"path": tmp_path}}
    client.NotebookClient(notebook, timeout=1800, resources=resources).execute()
    assert len(list((tmp_path / "out").glob("*.png"))) == 4
    assert (tmp_path / "runs/compare/cells/table.md").is_file()


def test_each_page_is_in_the_menu_once():
    listed = re.findall(r"^ +- [^:]+: (\S+\.md)$", read("mkdocs.yml"), flags=re.MULTILINE)
    assert sorted(listed) == sorted(set(listed))
    assert "explain.md" in listed


@pytest.mark.slow
def test_the_site_is_built_and_asks_no_other_server(tmp_path):
    pytest.importorskip("mkdocs")
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", tmp_path],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    pages = list(tmp_path.rglob("*.html"))
    assert {"tutorial.html", "zh/tutorial.html"} <= {
        page.relative_to(tmp_path).as_posix() for page in pages
    }
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=\"?https?:", text), page


# -- both languages ---------------------------------------------------------------------------


def bare(page):
    """Blocks without comments; of texts only that they are there."""
    found = []
    for language, code in FENCE.findall(read(page)):
        if language == "text" and "#SBATCH" not in code and "torchrun" not in code:
            code = ""
        else:
            code = re.sub(r"\s*# .*", "", code)
        found.append((language, code))
    return found


def test_every_guide_is_in_chinese():
    guides = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    copies = {"docs/data_sets.md", "docs/contributing.md", "docs/security.md", "docs/changelog.md"}
    known = {*TRANSLATED, *TRANSLATED.values(), *ENGLISH_ONLY, *copies}
    assert guides <= known
    assert all((ROOT / page).is_file() for page in TRANSLATED)


@pytest.mark.parametrize("page", [page for page in TRANSLATED if page != "data/README.md"])
def test_a_chinese_page_has_the_same_code_but_for_comments(page):
    assert bare(TRANSLATED[page]) == bare(page)


@pytest.mark.parametrize("page", TRANSLATED)
def test_a_chinese_page_has_the_same_tables_and_headings(page):
    def shape(text):
        return [line.count(" | ") for line in text.splitlines() if line.startswith("|")]

    def headings(text):
        return re.findall(r"^#+ ", FENCE.sub("", text), flags=re.MULTILINE)

    assert shape(read(TRANSLATED[page])) == shape(read(page))
    assert headings(read(TRANSLATED[page])) == headings(read(page))


@pytest.mark.parametrize("page", TRANSLATED)
def test_a_chinese_page_shows_the_same_names(page):
    def names(text):
        return sorted(set(re.findall(r"`(--[\w.]+|(?:data|training|model)\.\w+)", text)))

    assert names(read(TRANSLATED[page])) == names(read(page))


# -- links and lists --------------------------------------------------------------------------


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "SECURITY.md"])
def test_links_lead_to_files_and_headings(page):
    for target, anchor in LINK.findall(FENCE.sub("", read(page))):
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), target
        if anchor:
            assert anchor[1:] in anchors(path.read_text(encoding="utf-8")), f"{target}{anchor}"


def anchors(text):
    """Anchors of the headings, as git hosts and the site make them."""
    found = re.findall(r"^#+ (.*)$", FENCE.sub("", text), flags=re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found]


@pytest.mark.parametrize("page", ["docs/promises.md", "docs/promises.zh.md"])
def test_the_tests_that_are_named_exist(page):
    for path in re.findall(r"`(tests/[\w/.]+)`", read(page)):
        assert (ROOT / path).exists(), path


def test_the_readme_is_one_page():
    for page in ("README.md", "README.zh-CN.md"):
        text = read(page)
        assert len(text.splitlines()) <= 150
        assert text.index("<!-- study -->") < text.index("<!-- /study -->")


def test_every_basis_and_its_defaults_are_listed():
    from kanseg.bases import BASES, list_basis_options

    rows = {
        line.split("|")[1].strip(): line
        for line in read("docs/bases.md").splitlines()
        if "|" in line
    }
    for name in kanseg.list_bases():
        row = rows[f"`{name}`"]
        if name == "none":
            continue
        for option in list_basis_options(name):
            assert option == "domain" or f"{option}=" in row
        shown = dict(re.findall(r"(\w+)=([^,`]+|\([^)]*\))(?:,|`)", row))
        basis = BASES[name](8)
        for option, value in shown.items():
            if hasattr(basis, option) and value.strip().isdigit():
                assert getattr(basis, option) == int(value), (name, option)


def test_every_loss_is_listed():
    from kanseg.losses import LOSSES

    text = read("docs/training.md")
    assert [name for name in LOSSES if f"| `{name}` |" not in text] == []


def test_the_file_map_lists_every_part():
    parts = {path.name for path in (ROOT / "kanseg").iterdir() if path.name[0] not in "_."}
    text = read("docs/code.md")
    assert [part for part in parts - {"py.typed"} if f"  {part}/" not in text] == []


def test_changelog_has_the_version():
    assert f"## {kanseg.__version__}" in read("CHANGELOG.md")

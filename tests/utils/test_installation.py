import re
from pathlib import Path

import pytest

from kanseg.utils.installation import MODULES, USER_EXTRAS, costs, dependencies, install

ROOT = Path(__file__).parents[2]
LISTED = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def distribution(folder, name, requirements=(), size=0):
    """An installed distribution with one file of so many bytes."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (folder / f"{name}.py").write_bytes(b"#" * size)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0"]
    lines += [f"Requires-Dist: {requirement}" for requirement in requirements]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    (info / "RECORD").write_text(f"{name}.py,,\n")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with needs, extras for users and developers, and what they stand on."""
    monkeypatch.syspath_prepend(tmp_path)
    needs = ["kanseg_a>=1", "kanseg_b[fast]>=2", "kanseg_c", 'kanseg_d; extra == "tiff"']
    distribution(tmp_path, "kanseg_test", [*needs, 'kanseg_e; extra == "test"'])
    distribution(tmp_path, "kanseg_a", ["kanseg_c", "kanseg_x", "kanseg_y"], 1_000_000)
    distribution(tmp_path, "kanseg_b", ["kanseg_x", 'kanseg_z; extra == "fast"'], 2_000_000)
    distribution(tmp_path, "kanseg_c", (), 4_000_000)
    distribution(tmp_path, "kanseg_x", (), 500_000)
    distribution(tmp_path, "kanseg_y", ["kanseg_z2"], 200_000)
    distribution(tmp_path, "kanseg_z", (), 100_000)
    distribution(tmp_path, "kanseg_z2", (), 10_000)
    return "kanseg_test"


def test_needs_and_extras_of_users_are_listed_with_what_is_there(package):
    found = {
        each.name: (each.found, each.is_satisfied, each.extra) for each in dependencies(package)
    }
    assert found == {
        "kanseg_a": ("1.0", True, ""),
        "kanseg_b": ("1.0", False, ""),
        "kanseg_c": ("1.0", True, ""),
        "kanseg_d": (None, False, "tiff"),
    }


def test_a_dependency_costs_what_only_it_brings(package):
    found = {cost.name: (round(cost.megabytes, 6), cost.brings) for cost in costs(package)}
    assert found == {
        "kanseg_c": (4.0, ()),
        "kanseg_b": (2.1, ("kanseg-z",)),
        "kanseg_a": (1.21, ("kanseg-y", "kanseg-z2")),
        "shared": (0.5, ("kanseg-x",)),
    }


def test_an_import_costs_what_it_adds_to_those_that_it_needs(package, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    work = (
        "import time\nstart = time.process_time()\nwhile time.process_time() < start + {}: pass\n"
    )
    (tmp_path / "kanseg_a.py").write_text("import kanseg_c\n" + work.format(0.05))
    (tmp_path / "kanseg_b.py").write_text("raise OSError('a library of the system is missing')")
    (tmp_path / "kanseg_c.py").write_text(work.format(0.4))
    found = {cost.name: cost.import_seconds for cost in costs(package)}
    assert 0.05 <= found["kanseg_a"] < 0.4 <= found["kanseg_c"]
    assert found["kanseg_b"] is None


def test_every_extra_of_pyproject_is_for_users_or_developers():
    extras = LISTED.split("[project.optional-dependencies]")[1].split("\n[")[0]
    names = set(re.findall(r"(?m)^(\w+) = \[", extras))
    assert names - {"test", "dev", "docs"} == set(USER_EXTRAS)
    for extra in USER_EXTRAS:
        assert install(extra) == f'python -m pip install "kanseg[{extra}]"'


def test_modules_are_those_of_dependencies():
    assert [name for name in MODULES if not re.search(rf'"{name}[>=]', LISTED, re.IGNORECASE)] == []

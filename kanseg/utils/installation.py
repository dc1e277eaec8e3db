"""What is installed: kanseg's dependencies, their versions, what they cost, and the extras that are
missing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

# Two builds of cv2 overwrite each other's files.
CV2_BUILDS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
# The extras for users, and what they bring.
USER_EXTRAS = {
    "tiff": "TIFF files compressed by LZW, JPEG, Zstandard, ...",
    "tensorboard": "TensorBoard events of a training",
    "export": "ONNX files",
    "explain": "Grad-CAM of kanseg explain",
    "ray": "prediction by actors of Ray",
    "prune": "kanseg prune",
    "search": "kanseg search",
    "tracking": "Weights & Biases",
}
# The modules that kanseg imports of a distribution, where the name of the distribution, with
# underscores, is not it.
MODULES = {
    "basemap-data": "mpl_toolkits.basemap_data",
    "grad-cam": "pytorch_grad_cam",
    "matplotlib": "matplotlib.figure",
    "opencv-python-headless": "cv2",
    "pillow": "PIL.Image",
    "pyyaml": "yaml",
    "scipy": "scipy.spatial",
    "tensorboard": "torch.utils.tensorboard",
    "torchvision": "torchvision.transforms.v2",
}

# Imports the modules that it gets one after the other, and prints the CPU seconds of each.
TIMER = """
import importlib, json, sys, time
found = []
for module in sys.argv[1:]:
    start = time.process_time()
    try:
        importlib.import_module(module)
    except Exception:
        found.append(None)
    else:
        found.append(time.process_time() - start)
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Dependency:
    """One requirement of kanseg, and what is installed.

    Args:
        name: of the distribution.
        needed: the versions that kanseg works with, such as ">=2.5".
        found: the installed version, or None.
        extra: the extra that asks for it; "" for what kanseg cannot do without.
    """

    name: str
    needed: str
    found: str | None
    extra: str = ""

    @property
    def is_satisfied(self) -> bool:
        """True if a version is installed that kanseg works with."""
        if self.found is None:
            return False
        return SpecifierSet(self.needed).contains(self.found, prereleases=True)


@dataclass(frozen=True)
class Cost:
    """What a dependency costs.

    Args:
        name: of the distribution.
        extra: the extra that asks for it; "" for what kanseg cannot do without.
        megabytes: of its files, and of those that only it brings.
        brings: the distributions that only it brings, the largest first.
        import_seconds: CPU time that its import adds to that of the packages that it requires;
            None if it cannot be imported.
    """

    name: str
    extra: str
    megabytes: float
    brings: tuple[str, ...] = ()
    import_seconds: float | None = None


def install(extra: str) -> str:
    """Return the command that installs an extra."""
    return f'python -m pip install "kanseg[{extra}]"'


def dependencies(package: str = "kanseg") -> list[Dependency]:
    """Return the requirements of this Python, those of the extras for users last."""
    found = []
    for extra in ("", *USER_EXTRAS):
        for requirement in _requirements(package, extra):
            installed = installed_version(requirement.name)
            found.append(Dependency(requirement.name, str(requirement.specifier), installed, extra))
    return found


def installed_version(name: str) -> str | None:
    """Return the version of a distribution; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def clashing_cv2() -> list[str]:
    """Return the builds of cv2, if more than one is installed."""
    found = [name for name in CV2_BUILDS if installed_version(name) is not None]
    return found if len(found) > 1 else []


def costs(package: str = "kanseg") -> list[Cost]:
    """Measure the dependencies that are installed, the largest first; the packages that several of
    them bring are one of their own, "shared".
    """
    needed = {each.name: each for each in dependencies(package) if each.found is not None}
    roots = {canonicalize_name(name) for name in needed}
    brought = {}
    for extra in ("", *USER_EXTRAS):
        for requirement in _requirements(package, extra):
            if requirement.name in needed:
                brought[requirement.name] = _brought(requirement, roots)
    seconds = _import_seconds(_after_what_they_need(needed))
    users = Counter(other for names in brought.values() for other in names)
    found = []
    for name, dependency in needed.items():
        alone = [other for other in brought[name] if users[other] == 1]
        alone.sort(key=_megabytes, reverse=True)
        megabytes = sum(map(_megabytes, (name, *alone)))
        found.append(Cost(name, dependency.extra, megabytes, tuple(alone), seconds[name]))
    shared = sorted((name for name in users if users[name] > 1), key=_megabytes, reverse=True)
    if shared:
        found.append(Cost("shared", "", sum(map(_megabytes, shared)), tuple(shared)))
    return sorted(found, key=lambda cost: cost.megabytes, reverse=True)


def _brought(requirement: Requirement, roots: Iterable[str]) -> set[str]:
    """Return the installed distributions that one brings, directly or not, but for the roots."""
    found: set[str] = set()
    waiting = [(requirement.name, extra) for extra in ("", *requirement.extras)]
    while waiting:
        for needed in _requirements(*waiting.pop()):
            name = canonicalize_name(needed.name)
            if name in found or name in roots or installed_version(name) is None:
                continue
            found.add(name)
            waiting += [(name, extra) for extra in ("", *needed.extras)]
    return found


@cache
def _megabytes(name: str) -> float:
    """Return the size of the files of an installed distribution, in 10^6 bytes."""
    total = 0
    for file in distribution(name).files or ():
        path = file.locate()
        if path.is_file():
            total += path.stat().st_size
    return total / 1e6


def _after_what_they_need(names: Iterable[str]) -> list[str]:
    """Sort distributions so that each comes after those that it requires."""
    by_canonical = {canonicalize_name(name): name for name in names}
    found: list[str] = []

    def visit(name: str) -> None:
        for requirement in _requirements(name, ""):
            needed = by_canonical.get(canonicalize_name(requirement.name))
            if needed not in (None, name) and needed not in found:
                visit(needed)
        if name not in found:
            found.append(name)

    for name in by_canonical.values():
        visit(name)
    return found


def _import_seconds(names: Sequence[str]) -> dict[str, float | None]:
    """Return the CPU time that each import adds to those before it, in a new process; None if it
    fails.
    """
    modules = []
    for name in map(canonicalize_name, names):
        modules.append(MODULES.get(name, name.replace("-", "_")))
    done = subprocess.run([sys.executable, "-c", TIMER, *modules], capture_output=True, text=True)
    if done.returncode:
        return dict.fromkeys(names)
    return dict(zip(names, json.loads(done.stdout.splitlines()[-1]), strict=True))


def _requirements(package: str, extra: str) -> Iterator[Requirement]:
    """The requirements of a package without extras, or those that an extra adds."""
    for text in requires(package) or ():
        requirement = Requirement(text)
        marker = requirement.marker
        without = marker is None or marker.evaluate({"extra": ""})
        if extra and (without or not marker.evaluate({"extra": extra})):
            continue
        if extra or without:
            yield requirement

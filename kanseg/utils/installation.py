"""What is installed: kanseg's dependencies, their versions, and the extras that are missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

# Two builds of cv2 overwrite each other's files.
CV2_BUILDS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
USER_EXTRAS = ("export", "search", "tracking")


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

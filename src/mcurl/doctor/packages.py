"""The packages that mcurl requires, with its extras: which are there, in which version, and how to get the others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, distribution, requires
from typing import NamedTuple

from packaging.markers import Marker
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from mcurl import __version__
from mcurl.doctor.findings import Finding, Section
from mcurl.envs import suite_module
from mcurl.run.provenance import package_versions

PURPOSES = {
    "dmc": "DMControl tasks",
    "atari": "Atari games",
    "gym": "Gymnasium environments",
    "report": "plots",
    "parquet": "report --table FILE.parquet",
    "tensorboard": "--log tensorboard",
    "ray": "suites on a cluster",
    "video": "videos",
    "sb3": "the losses in agents of Stable-Baselines3",
    "torchrl": "the losses in TorchRL",
}
"""Extra -> what it is for."""
_NEEDED = ("", "dmc")
"""The extras that the default task needs; empty: none."""
_SKIPPED = ("dev", "all", "docs", "test")
"""Extras that are for developers, or contain others."""


class Requirement(NamedTuple):
    """A package that mcurl requires."""

    name: str
    specifier: str
    """Versions that are supported, such as ``">=3.17,<4"``; empty: all."""
    extra: str
    """The extra that it belongs to; empty: it is always needed."""
    version: str | None
    """The installed version; None: it is not installed."""
    supported: bool
    """Whether the installed version is supported; True if it is unknown."""

    @property
    def problem(self) -> str:
        """What is wrong; empty if nothing is."""
        if self.version is None:
            return f"{self.name} is not installed"
        return "" if self.supported else f"{self.name} is {self.version}, but {self.specifier} is supported"


def packages() -> Section:
    """All packages that mcurl requires."""
    found = requirements()
    if not found:
        versions = package_versions()
        text = "mcurl is not installed, so its requirements are unknown: pip install -e '.[dmc]' in its checkout"
        rows = [("mcurl", __version__), ("installed", ", ".join(f"{name} {versions[name]}" for name in versions))]
        return Section("packages", "Packages", {"mcurl": __version__, **versions}, rows, [Finding("warning", text)])
    rows, findings = [("mcurl", __version__)], []
    for extra in dict.fromkeys(requirement.extra for requirement in found):
        members = [requirement for requirement in found if requirement.extra == extra]
        rows.append((f"[{extra}]" if extra else "required", _row(extra, members)))
        if extra in _NEEDED or _wanted(extra, found):
            findings += [_finding(member) for member in members if member.problem]
    values = {"mcurl": __version__, "requirements": [requirement._asdict() for requirement in found]}
    return Section("packages", "Packages", values, rows, findings)


def _row(extra: str, members: Iterable[Requirement]) -> str:
    there = [f"{member.name} {member.version}" for member in members if member.version]
    missing = [member.name for member in members if not member.version]
    parts = [", ".join(there)] if there else []
    if missing:
        purpose = f", for {PURPOSES[extra]}" if extra in PURPOSES else ""
        parts.append(f"missing: {', '.join(missing)} ({install(extra)}{purpose})")
    return "; ".join(parts)


def _wanted(extra: str, found: Sequence[Requirement]) -> bool:
    """Whether a package of an extra is installed that no other extra needs."""
    return any(
        member.version and all(other.name != member.name or other.extra == extra for other in found)
        for member in found
        if member.extra == extra
    )


def _finding(requirement: Requirement) -> Finding:
    needed = requirement.extra in _NEEDED and requirement.version is None
    return Finding("error" if needed else "warning", f"{requirement.problem}: {install(requirement.extra)}")


def install(extra: str) -> str:
    """The command that installs an extra."""
    if extra == "dmc":
        return str(suite_module("dmc").install_command())
    return f"pip install 'mcurl[{extra}]'" if extra else "pip install mcurl"


def requirements() -> list[Requirement]:
    """The requirements in the metadata of the installed package; empty if it is not installed."""
    try:
        lines = requires("mcurl") or []
    except PackageNotFoundError:
        return []
    found = [_requirement(line) for line in lines]
    order = ["", *PURPOSES]
    return sorted(
        (requirement for requirement in found if requirement is not None),
        key=lambda requirement: [*order, requirement.extra].index(requirement.extra),
    )


def _requirement(line: str) -> Requirement | None:
    """A line such as ``mujoco<4,>=3.17; extra == 'dmc'``; None if it does not hold here or is for developers."""
    text, _, marker = line.partition(";")
    extra = next(iter(re.findall(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)), "")
    name = re.match(r"[\w.-]+", text.strip())
    if name is None or extra in _SKIPPED or name[0] == "mcurl":
        return None
    # Needed on every version of Python: where it is not a requirement, it is a second step (see `install`).
    if canonicalize_name(name[0]) != "dm-control" and not _holds(marker, extra):
        return None
    try:
        version: str | None = distribution(name[0]).version
    except PackageNotFoundError:
        version = None
    specifier = re.sub(r"\[.*?\]", "", text.strip()[len(name[0]) :]).strip(" ()")
    return Requirement(name[0], specifier, extra, version, version is None or _supports(specifier, version))


def _holds(marker: str, extra: str) -> bool:
    return not marker.strip() or Marker(marker).evaluate({"extra": extra})


def _supports(specifier: str, version: str) -> bool:
    return SpecifierSet(specifier).contains(version, prereleases=True)

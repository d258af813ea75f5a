"""The bootstrap: read by any Python, installs once, and pins what the project asks for."""

import ast
import importlib.util
import json
import sys
import tomllib
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import dev

ROOT = Path(dev.__file__).parent


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of its own with nothing installed."""
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.setattr(dev, "ROOT", tmp_path)
    monkeypatch.setattr(dev, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(dev, "PYTHON", tmp_path / ".venv" / "bin" / "python")
    monkeypatch.setattr(dev, "STAMP", tmp_path / ".venv" / "tocsin-installed.json")
    monkeypatch.setattr(dev, "CONSTRAINTS", tmp_path / "constraints.txt")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return tmp_path


def a_venv(checkout: Path) -> None:
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").symlink_to(sys.executable)


def a_stamp(checkout: Path, **changed: Any) -> None:
    version = dev.version_of(dev.PYTHON, needs_pip=False)
    stamp = {"files": dev.fingerprint(), "root": str(checkout), "python": version, "extras": ["dev", "embedded"]}
    dev.STAMP.write_text(json.dumps(stamp | changed))


def test_a_python_that_is_too_old_can_read_it_to_the_line_that_says_so() -> None:
    ast.parse((ROOT / "dev.py").read_text(encoding="utf-8"), feature_version=(3, 7))


def test_what_is_installed_is_not_installed_again(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_venv(checkout)
    a_stamp(checkout)
    monkeypatch.setattr(dev, "attempt", lambda *_, **__: pytest.fail("something was installed"))
    dev.install(("embedded",))


@pytest.mark.parametrize("changed", [{"files": "others"}, {"extras": ["embedded"]}, {"python": "3.10"}, {"root": "/"}])
def test_what_has_changed_is_installed_again_and_keeps_its_extras(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    a_venv(checkout)
    a_stamp(checkout, **changed)
    commands: list[list[str]] = []
    monkeypatch.setattr(dev, "attempt", lambda command, *_, **__: commands.append(command))
    monkeypatch.setattr(dev, "make_venv", lambda _: None)
    dev.install(("dev",))
    assert any("dev" in word and "embedded" in word for word in commands[-1])


def test_a_python_without_ensurepip_is_told_what_to_install(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec

    def without_ensurepip(name: str) -> ModuleSpec | None:
        return None if name == "ensurepip" else find_spec(name)

    monkeypatch.setattr(importlib.util, "find_spec", without_ensurepip)
    with pytest.raises(SystemExit, match="no ensurepip: apt install python3-venv"):
        dev.make_venv(None)


def test_constraints_pin_everything_that_pyproject_asks_for() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    asked += [wish for extra in project["project"]["optional-dependencies"].values() for wish in extra]
    # One extra may ask for another of ours.
    for requirement in (one for one in map(Requirement, asked) if one.name != "tocsin"):
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin, f"{requirement.name} is not pinned: python3 dev.py lock"
        assert Version(pin) in requirement.specifier, f"{requirement} is pinned at {pin}: python3 dev.py lock"

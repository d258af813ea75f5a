"""F20: another release of the time zones' rules, in front of the installed one."""

import importlib.util
import shutil
from pathlib import Path
from typing import Final

VERSION: Final = "2099z"
PACKAGE: Final = "2099.26"


def another_tzdata(directory: Path, *, zones: dict[str, str]) -> Path:
    """A directory for PYTHONPATH with a tzdata in which these zones have the rules of others."""
    spec = importlib.util.find_spec("tzdata")
    assert spec is not None, "tzdata is a dependency of ours"
    assert spec.origin is not None
    package = directory / "tzdata"
    shutil.copytree(Path(spec.origin).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    for zone, rules in zones.items():
        shutil.copyfile(package / "zoneinfo" / rules, package / "zoneinfo" / zone)
    init = package / "__init__.py"
    init.write_text(f'__version__ = "{PACKAGE}"\nIANA_VERSION = "{VERSION}"\n')
    about = directory / f"tzdata-{PACKAGE}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tzdata\nVersion: {PACKAGE}\n")
    return directory

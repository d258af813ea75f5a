"""What the reference says is what the code has: no more, no less."""

import ast
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import typer

from tocsin import load_app
from tocsin.cli import exits
from tocsin.cli.program import program
from tocsin.domain.duration import format_duration
from tocsin.domain.event_rule import OPTIONS as EVENT_OPTIONS
from tocsin.domain.hook import OPTIONS as HOOK_OPTIONS
from tocsin.domain.run import TERMINAL, TRANSITIONS, RunState, SkipReason
from tocsin.options import AGENT_OPTIONS, TRIGGER_OPTIONS
from tocsin.sdk.client import Client
from tocsin.settings import PREFIX, Settings, read_hub_table

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SOURCES = ROOT / "src" / "tocsin"
MIGRATION = SOURCES / "store" / "migrations" / "0001_expand_hub.sql"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
LEVELS = {"debug", "info", "warning", "error"}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def rows_of(page: str, *, after: str = "") -> Iterator[list[str]]:
    """The cells of a page's tables, without their heads, up to the next heading."""
    text = (DOCS / page).read_text(encoding="utf-8").partition(after)[2] if after else (DOCS / page).read_text("utf-8")
    for line in text.splitlines():
        if after and line.startswith("## "):
            return
        if line.startswith("| `"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_every_setting_stands_in_the_reference_with_its_default() -> None:
    written = {row[0].strip("`"): row[1].strip("`") for row in rows_of("reference/settings.md")}
    assert written == {f"{PREFIX}{name.upper()}": shown(field.default) for name, field in Settings.model_fields.items()}


def shown(default: object) -> str:
    if default is None:
        return "–"
    return format_duration(default) if isinstance(default, timedelta) else str(default)


def events() -> dict[str, str]:
    """Every event that the code logs, with its level."""
    found: dict[str, str] = {}
    for file in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS:
                first = node.args[0] if node.args else None
                if isinstance(first, ast.Constant) and re.fullmatch(r"[a-z]+\.[a-z_]+", str(first.value)):
                    found[str(first.value)] = node.func.attr
    return found


def test_every_event_stands_in_the_reference_with_its_level() -> None:
    assert {row[0].strip("`"): row[1] for row in rows_of("reference/events.md")} == events()


@pytest.mark.parametrize(
    ("after", "options"),
    [
        ("## Agents", AGENT_OPTIONS),
        ("## Triggers", TRIGGER_OPTIONS),
        ("## Events", EVENT_OPTIONS),
        ("## Webhooks", HOOK_OPTIONS),
    ],
)
def test_every_option_of_an_app_stands_in_the_reference(after: str, options: Iterable[str]) -> None:
    assert [row[0].strip("`") for row in rows_of("reference/app.md", after=after)] == list(options)


def test_the_state_graph_has_exactly_the_edges_of_the_code() -> None:
    drawn = set(re.findall(r"^    (\S+) --> (\S+)$", (DOCS / "states.md").read_text(encoding="utf-8"), re.MULTILINE))
    edges = {(state.value, onward.value) for state, onwards in TRANSITIONS.items() for onward in onwards}
    assert drawn == edges | {("[*]", RunState.QUEUED.value)} | {(state.value, "[*]") for state in TERMINAL}


def test_every_status_of_a_trigger_is_explained() -> None:
    statuses = re.search(r"CHECK \(status IN \(([^)]*)\)\)", MIGRATION.read_text(encoding="utf-8"))
    assert statuses is not None
    written = {row[0].strip("`") for row in rows_of("states.md", after="## A trigger")}
    assert written == {status.strip(" '") for status in statuses[1].split(",")}


def test_every_reason_for_a_skip_is_promised() -> None:
    text = (DOCS / "semantics.md").read_text(encoding="utf-8")
    assert [reason for reason in SkipReason if f"`{reason}`" not in text] == []


def test_every_command_stands_in_the_reference() -> None:
    text = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
    commands = typer.main.get_command(program()).commands  # type: ignore[attr-defined]  # a group has them
    for name, command in commands.items():
        for word in (name, *getattr(command, "commands", {})):
            assert re.search(rf"`(?:tocsin )?(?:\S+ )?{word}[ `]", text), f"{name}: {word}"


def _arguments(operation: Callable[..., Any]) -> list[str]:
    """What it takes; filters by their names, and first."""
    names: list[str] = []
    for name, one in inspect.signature(operation).parameters.items():
        if one.kind is one.VAR_KEYWORD:
            names = [*one.annotation.__args__[0].__annotations__, *names]
        elif name != "self":
            names.append(name)
    return names


def test_every_operation_of_the_client_stands_in_the_reference_with_its_arguments() -> None:
    text = " ".join(row[0] for row in rows_of("reference/client.md", after="## Operations"))
    written = {name: arguments.split(", ") for name, arguments in re.findall(r"`(\w+)\(([^)]*)\)`", text)}
    operations = {name: one for name, one in vars(Client).items() if inspect.isfunction(one) and name[0] != "_"}
    assert set(written) == set(operations)
    for name, operation in operations.items():
        assert [one for one in written[name] if one] == _arguments(operation), name


def test_every_exit_code_stands_in_the_reference() -> None:
    text = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8").partition("## Exit codes")[2]
    codes = {code for name, code in vars(exits).items() if name.isupper() and isinstance(code, int)}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)} == codes


def test_every_decision_is_listed() -> None:
    index = (DOCS / "decisions" / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in (DOCS / "decisions").glob("0*.md") if f"({page.name})" not in index] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_example_can_be_read(page: Path, tmp_path: Path) -> None:
    for kind, text in re.findall(r"^```(python|toml)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.M):
        if kind == "python":
            compile(text, str(page), "exec")
        elif "[agents." in text:
            (tmp_path / "app.toml").write_text(text, encoding="utf-8")
            assert load_app(str(tmp_path / "app.toml")).triggers
        else:
            (tmp_path / "tocsin.toml").write_text(text, encoding="utf-8")
            assert read_hub_table(tmp_path / "tocsin.toml")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link and not link.startswith("#")]
    assert [link for link in links if not (page.parent / link.partition("#")[0]).exists()] == []

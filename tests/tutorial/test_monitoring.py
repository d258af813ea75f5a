"""What the page on monitoring says is told is what is told, and its rules ask for nothing else."""

import re

from prometheus_client.metrics_core import Metric

from tests.tutorial.test_reference import DOCS, rows_of
from tocsin.edges.metrics.families import Pool, State, Step, cluster, families
from tocsin.edges.metrics.tally import Bounded, Counts
from tocsin.store.gauges import Reading

PAGE = "how-to/monitoring.md"
SUFFIXES = {
    "histogram": ("_bucket", "_count", "_sum"),
    "summary": ("_count", "_sum"),
    "counter": ("_total",),
    "gauge": ("",),
}

STATE = State(
    ready=True,
    executing=1,
    slots=1,
    connected=1,
    pools=[Pool("engine", 1, 1, 1, 1, 1)],
    loops=[Step("planner", 1, 1, True)],
)


def told() -> list[Metric]:
    readings = [Reading("queued", "agent", "live", 1, 1), Reading("running", "agent", None, 1, 0)]
    return [*families(Counts(), STATE), *cluster(readings, Bounded(1))]


def name_of(family: Metric) -> str:
    return family.name + ("_total" if family.type == "counter" else "")


def test_every_metric_stands_on_the_page_with_its_type_and_labels() -> None:
    written = {
        row[0].strip("`"): (row[1], re.findall(r"`(\w+)`", row[2]))
        for row in rows_of(PAGE)
        if row[0].startswith("`tocsin_")
    }
    assert written == {name_of(one): (one.type, list(vars(one)["_labelnames"])) for one in told()}


def test_every_metric_is_named_as_prometheus_wants_it() -> None:
    for one in told():
        assert one.name.startswith("tocsin_")
        assert not one.name.endswith(("_total", "_count", "_sum", "_bucket", "_created"))
        assert one.type != "histogram" or one.name.endswith("_seconds")
        assert one.documentation


def test_every_metric_that_a_rule_asks_for_is_one() -> None:
    text = (DOCS / PAGE).read_text(encoding="utf-8")
    rules = "".join(re.findall(r"```yaml\n# tocsin.rules.yml\n(.*?)```", text, re.DOTALL)) + "".join(
        re.findall(r"`([^`]*\([^`]*)`", text)
    )
    known = {one.name + suffix for one in told() for suffix in SUFFIXES[one.type]}
    asked = set(re.findall(r"\btocsin_\w+", rules))
    assert len(asked) > 12
    assert asked <= known

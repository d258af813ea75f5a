"""Traces of whole processes, sent by OTLP to a collector: hubs, programs, agents elsewhere; and where there is none."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.cli.conftest import PATIENCE, Hub
from tocsin.domain.trace import attempt_of, root_of, trace_of, traceparent_of

APP = """
import os, sys
from tocsin import Hub, Run, every

hub = Hub()

@hub.agent
async def function(run: Run) -> dict:
    return {"told": run.traceparent}

hub.command("program", [sys.executable, "-c", "import os, json; print(json.dumps(os.environ.get('TRACEPARENT')))"])
hub.trigger("of-function", "function", every("1s"))
hub.trigger("of-program", "program", every("1s"))
"""

ELSEWHERE = """
import json, os
from tocsin import Hub, Run
from opentelemetry import trace

hub = Hub()

@hub.agent
def remote(run: Run) -> dict:
    with trace.get_tracer("elsewhere").start_as_current_span("model call"):
        pass
    return {"told": run.traceparent}

hub.trigger("of-remote", "remote")
"""


class Collector:
    """What OTLP sends, over HTTP. hangs: it takes a request and never answers."""

    def __init__(self, *, hangs: bool = False) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.asked = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.asked.set()
                if hangs:
                    threading.Event().wait(PATIENCE * 2)
                collector.requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.socket.close()

    def spans(self) -> list[dict[str, Any]]:
        found = []
        for request in list(self.requests):
            for of_resource in request.resource_spans:
                service = {one.key: one.value.string_value for one in of_resource.resource.attributes}
                for scope in of_resource.scope_spans:
                    for span in scope.spans:
                        found.append(
                            {
                                "name": span.name,
                                "trace": int.from_bytes(span.trace_id),
                                "id": int.from_bytes(span.span_id),
                                "parent": int.from_bytes(span.parent_span_id),
                                "service": service,
                                "about": {one.key: one.value.string_value for one in span.attributes},
                            }
                        )
        return found

    def wait_for(self, count: int = 1, **fields: Any) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            matching = [span for span in self.spans() if fields.items() <= span.items()]
            if len(matching) >= count:
                return matching[-1]
            time.sleep(0.05)
        raise AssertionError(f"no {fields} among {self.spans()}")


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture
def start(tmp_path: Path, dsn: str) -> Iterator[Callable[..., Hub]]:
    """Starts hubs on the test's database, with these variables."""
    hubs: list[Hub] = []
    (tmp_path / "app.py").write_text(APP)

    def started(*words: str, **variables: str) -> Hub:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("TOCSIN_", "OTEL_"))}
        settings = {"TOCSIN_DATABASE_URL": dsn, "TOCSIN_HTTP_BIND": "127.0.0.1:0", "TOCSIN_GRPC_BIND": "127.0.0.1:0"}
        command = [sys.executable, "-m", "tocsin.cli", *words, "--json"]
        hubs.append(Hub(command, tmp_path, clean | settings | {"OTEL_BSP_SCHEDULE_DELAY": "100"} | variables))
        return hubs[-1]

    yield started
    for hub in hubs:
        hub.close()


async def output_of(dsn: str, run_id: str) -> Any:
    connection = await asyncpg.connect(dsn)
    try:
        return json.loads(await connection.fetchval("SELECT output FROM tocsin.runs WHERE id = $1::uuid", run_id))
    finally:
        await connection.close()


@pytest.mark.anyio
async def test_runs_of_functions_and_programs_are_sent_and_their_agents_know(
    start: Callable[..., Hub], collector: Collector, dsn: str
) -> None:
    hub = start("up", "app.py", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_SERVICE_NAME="shop-hub")
    assert hub.wait_for("traces.on")["exporters"] == ["otlp"]
    for trigger in ("of-function", "of-program"):
        line = hub.wait_for("run.settled", trigger=trigger, state="succeeded")
        run_id = UUID(line["run_id"])
        # The log names the trace.
        assert line["trace_id"] == f"{trace_of(run_id):032x}"
        root = collector.wait_for(name="run", trace=trace_of(run_id))
        assert (root["id"], root["parent"]) == (root_of(run_id), 0)
        assert root["about"]["tocsin.trigger"] == trigger
        assert root["service"]["service.name"] == "shop-hub"
        assert root["service"]["service.version"] == "0.1.0"
        attempt = collector.wait_for(name="attempt 1", trace=trace_of(run_id))
        assert (attempt["id"], attempt["parent"]) == (attempt_of(run_id, 1), root_of(run_id))
        told = await output_of(dsn, str(run_id))
        assert (told["told"] if trigger == "of-function" else told) == str(traceparent_of(run_id, 1, sampled=True))
    hub.send()
    assert hub.end() == 0
    assert hub.said() == ""


@pytest.mark.anyio
async def test_a_process_elsewhere_goes_on_with_the_trace(
    start: Callable[..., Hub], collector: Collector, tmp_path: Path, dsn: str
) -> None:
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE)
    otel = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/v1/traces"}
    hub = start("up", "app.py", "--work", "elsewhere.py", **otel)
    assert hub.wait_for("traces.on", 2)
    url = hub.url
    hub.wait_for("instance.connected")
    request = urllib.request.Request(f"{url}/v1/triggers/of-remote/fire", method="POST")
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        run_id = UUID(json.load(answer)["id"])
    hub.wait_for("run.settled", run_id=str(run_id))
    assert (await output_of(dsn, str(run_id)))["told"] == str(traceparent_of(run_id, 1, sampled=True))
    call = collector.wait_for(name="model call")
    assert (call["trace"], call["parent"]) == (trace_of(run_id), attempt_of(run_id, 1))
    collector.wait_for(name="run", trace=trace_of(run_id))
    assert call["service"]["service.instance.id"]
    begun = hub.wait_for("run.started", run_id=str(run_id))
    assert begun["trace_id"] == f"{trace_of(run_id):032x}"


def test_a_collector_that_never_answers_delays_no_run_and_no_drain(start: Callable[..., Hub]) -> None:
    collector = Collector(hangs=True)
    try:
        hub = start("up", "app.py", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
        assert collector.asked.wait(PATIENCE)
        settled = len([line for line in hub.events if line["event"] == "run.settled"])
        hub.wait_for("run.settled", settled + 4)
        began = time.monotonic()
        hub.send()
        assert hub.end() == 0
        assert time.monotonic() - began < 8
        assert hub.said() == ""
    finally:
        collector.close()


def test_a_collector_that_is_not_there_is_told_of_once(start: Callable[..., Hub]) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        hub = start("up", "app.py", OTEL_EXPORTER_OTLP_ENDPOINT=url, OTEL_EXPORTER_OTLP_TIMEOUT="1")
        hub.wait_for("traces.failed")
        hub.wait_for("run.settled", 6)
        hub.send(signal.SIGTERM)
        assert hub.end() == 0
    assert len([line for line in hub.events if line["event"] == "traces.failed"]) == 1
    assert hub.said() == ""


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"OTEL_TRACES_EXPORTER": "pigeon"}, "OTEL_TRACES_EXPORTER=pigeon: no exporter pigeon is installed; there is"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "no exporter otlp_proto_grpc is installed",
        ),
    ],
)
def test_what_cannot_be_is_said_and_keeps_no_hub_from_working(
    start: Callable[..., Hub], variables: dict[str, str], reason: str
) -> None:
    hub = start("up", "app.py", **variables)
    assert reason in hub.wait_for("traces.off")["reason"]
    hub.wait_for("run.settled", state="succeeded")


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "otlp"},
    ],
)
def test_nothing_of_it_is_imported_unless_it_is_wanted(variables: dict[str, str]) -> None:
    program = (
        "import sys, tocsin.serve, tocsin.cli.work, tocsin.sdk.agent, tocsin.edges.http.api\n"
        "from tocsin.otel.wanted import is_on, open_pipeline\n"
        "from tocsin.telemetry import Silence\n"
        "assert open_pipeline(instance='x', log=Silence()) is None and not is_on()\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run([sys.executable, "-c", program], env=clean | variables, capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[]"


def test_where_it_is_not_installed_that_is_said_and_all_else_works(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    program = (
        "import sys\n"
        "sys.modules.update({'opentelemetry': None, 'opentelemetry.sdk': None})\n"
        "from tocsin.cli import main\n"
        "sys.exit(main(['up', 'app.py', '--json', '--for', '2']))"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TOCSIN_", "OTEL_"))}
    clean |= {"TOCSIN_HTTP_BIND": "127.0.0.1:0", "TOCSIN_GRPC_BIND": "127.0.0.1:0"}
    clean |= {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=clean, capture_output=True, timeout=PATIENCE * 2, check=False
    )
    said = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert done.returncode == 0, done.stderr
    (off,) = (line for line in said if line["event"] == "traces.off")
    assert "pip install 'tocsin[otel]'" in off["reason"]
    assert any(line["event"] == "run.settled" for line in said)
    assert not any("trace_id" in line for line in said)

"""The scenarios, in the order of the page."""

from benchmarks.peers.ground import Scenario
from benchmarks.peers.scenarios import bulk, burst, latency, throughput

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario for scenario in (throughput.SCENARIO, *burst.SCENARIOS, *latency.SCENARIOS, bulk.SCENARIO)
}

"""The scenarios, in the order of the page."""

from benchmarks.peers.ground import Scenario
from benchmarks.peers.scenarios import bulk, burst, crash, drain, idle, latency, plan, scale, throughput

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        throughput.SCENARIO,
        *plan.SCENARIOS,
        *burst.SCENARIOS,
        idle.SCENARIO,
        *latency.SCENARIOS,
        bulk.SCENARIO,
        *crash.SCENARIOS,
        drain.SCENARIO,
        scale.SCENARIO,
    )
}

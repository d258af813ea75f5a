"""Many runs asked for at once."""

from benchmarks.peers.ground import Case, Figures, Ground, Scenario


async def bulk(ground: Ground, case: Case) -> Figures:
    count = min(case["runs"], ground.contestant.largest.get("bulk", case["runs"]))
    said = await ground.crew.do("enqueue", count=count)
    return {"runs_per_s": count / said["enqueued"]["seconds"], "runs": float(count)}


SCENARIO = Scenario(
    name="bulk",
    title="Bulk enqueueing",
    explained="Asking for 50,000 runs in the fastest documented way; nobody works meanwhile.",
    cases=({"runs": 50_000},),
    quick=({"runs": 20_000},),
    units={"runs_per_s": "runs/s"},
    lower=False,
    measure=bulk,
)

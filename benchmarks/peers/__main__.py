"""Tocsin beside its peers, all on this machine, one measurement at a time.

    python -m benchmarks.peers                        # every scenario, every contestant, three runs; then the page
    python -m benchmarks.peers --quick                # fewer sizes, runs and peers: under five minutes
    python -m benchmarks.peers throughput burst --contestants reference,tocsin,pgqueuer --runs 1
    python -m benchmarks.peers page                   # docs/benchmarks.md anew from benchmarks/results

Each contestant has an environment of its own below .bench, with its newest release of when it was made
(--renew makes them anew). Runs are interleaved: whatever drifts on the machine, drifts for all.
Results are kept below benchmarks/results with --save, which is the default of a full measurement.
"""

import argparse
import asyncio

from benchmarks.peers.contestants import named
from benchmarks.peers.page import write_page
from benchmarks.peers.runner import Plan, carry_out
from benchmarks.peers.scenarios import SCENARIOS

QUICK_CONTESTANTS = ["reference", "tocsin", "pgqueuer"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", help=f"of {', '.join(SCENARIOS)}; or page")
    parser.add_argument("--contestants", default="", help="names, with commas between them")
    parser.add_argument("--runs", type=int, default=None)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", help="cases with this part, such as processes=1")
    parser.add_argument("--save", action="store_true", help="keep the results although not all was measured")
    parser.add_argument("--renew", action="store_true", help="newest releases into new environments")
    options = parser.parse_args()
    unknown = [name for name in options.scenarios if name not in SCENARIOS and name != "page"]
    if unknown:
        parser.error(f"no scenario {unknown[0]!r}; there are {', '.join(SCENARIOS)}, and page")
    wanted = [name for name in options.scenarios if name != "page"]
    given = [name for name in options.contestants.split(",") if name]
    if wanted or not options.scenarios:
        names = given or (QUICK_CONTESTANTS if options.quick else [])
        plan = Plan(
            scenarios=[SCENARIOS[name] for name in wanted or SCENARIOS],
            contestants=named(names),
            runs=options.runs or (1 if options.quick else 3),
            quick=options.quick,
            only=options.only,
            renew=options.renew,
            save=options.save or not (options.quick or given or options.only or options.runs),
        )
        asyncio.run(carry_out(plan))
    if "page" in options.scenarios or (not options.scenarios and not options.quick):
        write_page()


if __name__ == "__main__":
    main()

"""``tocsin doctor`` where a hub elsewhere is named: whether it answers, whether the key opens it, and what it says."""

from urllib.parse import urlsplit

from tocsin.cli.connection import elsewhere
from tocsin.cli.findings import FAIL, OK, WARN, Finding, of_this_process
from tocsin.cli.output import counted, length
from tocsin.clock import host_now
from tocsin.domain.errors import HubUnavailable, TocsinError
from tocsin.settings import unknown_variables
from tocsin.version import __version__

MOST_REPLICAS = 1_000


async def examine_elsewhere(url: str) -> list[Finding]:
    """All findings. The database is the affair of the doctor where the hub runs, and that is said."""
    findings = of_this_process()
    for name in unknown_variables():
        findings.append(Finding("settings", WARN, f"{name} is no setting", "correct its name, or unset it"))
    try:
        findings += await _asked(url)
    except TocsinError as error:
        advice = "check TOCSIN_URL and TOCSIN_KEY, and that the hub runs and lets this host in"
        findings.append(Finding("hub", FAIL, str(error), advice, no_database=isinstance(error, HubUnavailable)))
    unseen = "not looked at: `tocsin doctor` does that where the hub runs, without TOCSIN_URL"
    return [*findings, Finding("database", OK, unseen)]


async def _asked(url: str) -> list[Finding]:
    async with elsewhere(url) as hub:
        begun = host_now()
        now = await hub.now()
        offset = abs((now - begun).total_seconds())
        replicas = [row for row in await hub.replicas(limit=MOST_REPLICAS) if row["state"] == "alive"]
    answers = Finding("hub", OK, f"{url} answers; {counted(len(replicas), 'replica')} alive")
    others = sorted({row["version"] for row in replicas} - {__version__})
    release = Finding("release", WARN, f"replicas of {', '.join(others)}, this is {__version__}", "bring both to one")
    plain = urlsplit(url).scheme == "http"
    clock = f"this host and the database are {length(offset)} apart"
    advice = "" if offset < 2 else "nothing depends on it but lengths of time that are shown; run NTP on both"
    return [
        answers,
        *([release] if others else []),
        Finding("tls", OK, "plain HTTP" if plain else "the certificate is trusted"),
        Finding("clock", OK if offset < 2 else WARN, clock, advice),
    ]

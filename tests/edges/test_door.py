"""Who is let in: keys, TLS, mutual TLS; and what a hostile process can do to the others, which is nothing."""

from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import grpc
import grpc.aio
import pytest
import trustme

from tests.edges.wiring import Process, a_control, a_hub
from tests.engine.building import a_trigger
from tocsin.domain.errors import BadInput, Conflict, InvalidSetting, NotFound, Refused
from tocsin.edges.grpc.outgoing import MOST
from tocsin.settings import load_settings
from tocsin.v1 import agent_pb2 as pb

pytestmark = pytest.mark.anyio


async def refused(address: str, *, key: str | None = None, agent: str = "agent") -> tuple[grpc.StatusCode, str]:
    """How a stream ended that said hello."""
    async with Process(address, key=key) as process:
        with suppress(grpc.aio.AioRpcError):
            await process.say(hello=pb.Hello(protocol=1, instance_id=str(uuid4()), agents=[agent], slots=1))
        return await process.code(), await process.call.details()


async def test_a_key_lets_in_for_its_own_agents_only(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t"), agents=["agent", "billing"]) as control, a_hub(dsn) as hub:
        key = (await control.keys.create("digests", agents=["agent"]))["key"]
        async with Process(hub.address, key=key) as process:
            await process.hello()
            assert (await control.roster.instance(process.id))["key"] == "digests"
        code, said = await refused(hub.address, key=key, agent="billing")
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert "'digests' is not for 'billing'" in said


async def test_once_there_is_a_key_nobody_comes_in_without_one(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t")) as control, a_hub(dsn) as hub:
        await control.keys.create("all", agents=["*"])
        assert (await refused(hub.address))[0] is grpc.StatusCode.UNAUTHENTICATED
        assert (await refused(hub.address, key="tocsin_guessed"))[0] is grpc.StatusCode.UNAUTHENTICATED


async def test_a_revoked_key_opens_nothing(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t")) as control, a_hub(dsn) as hub:
        key = (await control.keys.create("old", agents=["*"]))["key"]
        await control.keys.create("new", agents=["*"])
        await control.keys.revoke("old")
        assert (await refused(hub.address, key=key))[0] is grpc.StatusCode.UNAUTHENTICATED


async def test_another_key_cannot_take_over_a_process_and_its_runs(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t"), agents=["agent", "billing"]) as control, a_hub(dsn) as hub:
        ours, theirs = [(await control.keys.create(name, agents=["*"]))["key"] for name in "ab"]
        async with Process(hub.address, key=ours) as process:
            welcome = await process.hello()
            await process.credit(1)
            await control.fire("t")
            (run,) = await process.assigned()
        async with Process(hub.address, key=theirs, instance_id=process.id) as thief:
            held = pb.Held(run_id=run.run_id, fence=1)
            hello = pb.Hello(
                protocol=1, instance_id=process.id, agents=["agent"], slots=1, held=[held], last_stream=welcome.stream
            )
            await thief.say(hello=hello)
            assert await thief.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_keys_are_named_once_and_told_once(dsn: str) -> None:
    async with a_control(dsn) as control:
        key = (await control.keys.create("k", agents=["agent"]))["key"]
        with pytest.raises(Conflict, match="'k' exists"):
            await control.keys.create("k", agents=["agent"])
        with pytest.raises(BadInput, match="say what it is for"):
            await control.keys.create("l", agents=[])
        with pytest.raises(NotFound):
            await control.keys.revoke("m")
        (shown,) = await control.keys.all()
        assert key not in str(shown)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def written(directory: Path, authority: trustme.CA, name: str) -> dict[str, Path]:
    """Paths of a certificate for this host, its key, and the authority."""
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    paths = {kind: directory / f"{name}.{kind}" for kind in ("cert", "key", "ca")}
    certificate.private_key_pem.write_to_path(paths["key"])
    paths["cert"].write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    authority.cert_pem.write_to_path(paths["ca"])
    return paths


async def test_tls(dsn: str, tmp_path: Path, authority: trustme.CA) -> None:
    ours = written(tmp_path, authority, "hub")
    trusted = grpc.ssl_channel_credentials(ours["ca"].read_bytes())
    async with a_control(dsn, a_trigger("t")), a_hub(dsn, grpc_cert=ours["cert"], grpc_key=ours["key"]) as hub:
        async with Process(hub.address, credentials=trusted) as process:
            assert (await process.hello()).protocol == 1
        assert (await refused(hub.address))[0] is grpc.StatusCode.UNAVAILABLE


async def test_mutual_tls(dsn: str, tmp_path: Path, authority: trustme.CA) -> None:
    ours, theirs = written(tmp_path, authority, "hub"), written(tmp_path, authority, "agent")
    bare = grpc.ssl_channel_credentials(ours["ca"].read_bytes())
    known = grpc.ssl_channel_credentials(
        ours["ca"].read_bytes(), theirs["key"].read_bytes(), theirs["cert"].read_bytes()
    )
    settings = {"grpc_cert": ours["cert"], "grpc_key": ours["key"], "grpc_ca": ours["ca"]}
    async with a_control(dsn, a_trigger("t")), a_hub(dsn, **settings) as hub:
        async with Process(hub.address, credentials=known) as process:
            await process.hello()
        async with Process(hub.address, credentials=bare) as stranger:
            with suppress(grpc.aio.AioRpcError):
                await stranger.say(hello=pb.Hello(protocol=1, instance_id=str(uuid4()), agents=["agent"], slots=1))
            assert await stranger.code() is grpc.StatusCode.UNAVAILABLE


def test_other_hosts_need_tls_or_an_express_word() -> None:
    with pytest.raises(InvalidSetting, match="TOCSIN_GRPC_INSECURE=1"):
        load_settings(grpc_bind="0.0.0.0:8621")
    assert load_settings(grpc_bind="0.0.0.0:8621", grpc_insecure=True).grpc_insecure
    with pytest.raises(InvalidSetting, match="go together"):
        load_settings(grpc_cert="a.pem")
    with pytest.raises(InvalidSetting, match="shorter than"):
        load_settings(suspect_after="2m", dead_after="90s")


async def test_a_port_in_use_is_named(dsn: str) -> None:
    async with a_control(dsn), a_hub(dsn) as hub:
        with pytest.raises(Refused, match=f"TOCSIN_GRPC_BIND={hub.address}"):
            async with a_hub(dsn, grpc_bind=hub.address):
                pass


async def test_nonsense_ends_its_own_stream_alone(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t")) as control, a_hub(dsn) as hub, Process(hub.address) as good:
        await good.hello()
        await good.credit(1)
        for nonsense in (
            pb.FromAgent(finished=pb.Finished(results=[pb.Result(run_id="x", fence=1)])),
            pb.FromAgent(beat=pb.Beat(seq=1, held=[pb.Held(run_id="x", fence=-1)])),
            pb.FromAgent(report=pb.Report(run_id=str(uuid4()), fence=1, usage="no JSON")),
            pb.FromAgent(hello=pb.Hello()),
        ):
            async with Process(hub.address) as bad:
                await bad.hello()
                await bad.call.write(nonsense)
                assert await bad.code() is grpc.StatusCode.INVALID_ARGUMENT, nonsense
        await control.fire("t")
        (run,) = await good.assigned()
        assert not (await good.finish(run))[0].fenced


async def test_a_message_that_is_too_large_ends_its_own_stream_alone(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t")), a_hub(dsn) as hub, Process(hub.address) as good:
        await good.hello()
        async with Process(hub.address, beats=False) as bad:
            await bad.hello()
            with suppress(grpc.aio.AioRpcError):
                await bad.call.write(pb.FromAgent(beat=pb.Beat(seq=1, stalled=True, culprit="x" * (5 * 1024 * 1024))))
            # The client says INTERNAL when the end of the stream meets its own write.
            assert await bad.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL)
        await good.beat()
        await good.next("beat_taken")


async def test_a_flood_that_is_never_read_is_held_up(dsn: str) -> None:
    """Verdicts on results that are nobody's wait in bounded number; then its messages wait at its own end."""
    patient = {"suspect_after": 10, "dead_after": 30}
    async with a_control(dsn, a_trigger("t")), a_hub(dsn, **patient) as hub, Process(hub.address) as good:
        await good.hello()
        async with Process(hub.address) as flood:
            await flood.hello()
            result = [pb.Result(run_id=str(uuid4()), fence=1, succeeded=b"1") for _ in range(500)]
            flood.deaf = flood.frozen = True
            assert await flood.flood(pb.Finished(results=result), seconds=4) > 100
            assert hub.server.session(flood.id).outgoing.waiting <= MOST + len(result)
            await good.beat()
            await good.next("beat_taken")

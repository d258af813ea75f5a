"""Encrypted, and each side known to the other."""

from collections.abc import Callable

import grpc
import trustme

from tests.sdk.conftest import Agents
from tests.sdk.scripted import ScriptedHub
from tocsin.sdk.dial import Access

Start = Callable[..., Agents]


def credentials(authority: trustme.CA, *, mutual: bool) -> grpc.ServerCredentials:
    certificate = authority.issue_cert("127.0.0.1")
    pair = (certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes())
    return grpc.ssl_server_credentials(
        [pair], root_certificates=authority.cert_pem.bytes() if mutual else None, require_client_auth=mutual
    )


def test_a_hub_of_a_known_authority_is_spoken_to(start: Start) -> None:
    authority = trustme.CA()
    hub = ScriptedHub(credentials=credentials(authority, mutual=False))
    try:
        start(hub, access=Access(key="k", ca=authority.cert_pem.bytes()))
        assert hub.stream().metadata["authorization"] == "Bearer k"
    finally:
        hub.close()


def test_a_hub_that_wants_a_certificate_is_shown_one(start: Start) -> None:
    authority = trustme.CA()
    mine = authority.issue_cert("agents")
    hub = ScriptedHub(credentials=credentials(authority, mutual=True))
    try:
        start(
            hub,
            access=Access(
                ca=authority.cert_pem.bytes(),
                certificate=mine.cert_chain_pems[0].bytes(),
                private_key=mine.private_key_pem.bytes(),
            ),
        )
        hub.stream().welcome().credits(4)
    finally:
        hub.close()


def test_a_hub_of_another_authority_is_told_nothing(start: Start) -> None:
    hub = ScriptedHub(credentials=credentials(trustme.CA(), mutual=False))
    try:
        agents = start(hub, access=Access(key="k", ca=trustme.CA().cert_pem.bytes()))
        agents.log.wait_for("agent.refused", code="UNAVAILABLE")
        assert hub.streams == 0
    finally:
        hub.close()

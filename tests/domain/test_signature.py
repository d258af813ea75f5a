"""A webhook's call is let in when its sender has signed these bytes at this moment, and else never."""

import base64
import hmac
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest
import standardwebhooks

from tocsin.domain.errors import BadInput, Unverified
from tocsin.domain.hook import Hook, webhook
from tocsin.domain.signature import NOT_ITS_OWN, Verified, refuse_unknown, verify

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BODY = b'{"test": 2432232314}'
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
STANDARD = webhook("standard", secret="S")
GITHUB = webhook("github", secret="S")


def verified(
    hook: Hook, secrets: list[str], headers: dict[str, str], body: bytes = BODY, now: datetime = NOW
) -> Verified:
    return verify(hook, [hook.key_of(secret) for secret in secrets], headers, body, now=now)


def refused(*arguments: Any, **more: Any) -> str:
    with pytest.raises(Unverified) as told:
        verified(*arguments, **more)
    return str(told.value)


def standard(
    event_id: str = "msg_1", *, secret: str = SECRET, at: datetime = NOW, body: bytes = BODY, prefix: str = "webhook"
) -> dict[str, str]:
    """As the standard's own library signs."""
    signature = standardwebhooks.Webhook(secret).sign(event_id, at, body.decode())
    return {
        f"{prefix}-id": event_id,
        f"{prefix}-timestamp": str(int(at.timestamp())),
        f"{prefix}-signature": signature,
    }


def github(body: bytes = BODY, *, secret: str = "s", delivery: str = "d-1", event: str = "push") -> dict[str, str]:
    digest = hmac.new(secret.encode(), body, sha256).hexdigest()
    return {"x-hub-signature-256": f"sha256={digest}", "x-github-delivery": delivery, "x-github-event": event}


# --- known answers


def test_the_example_of_standard_webhooks() -> None:
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    at = datetime.fromtimestamp(1614265330, UTC)
    assert verified(STANDARD, [SECRET], headers, now=at) == Verified("msg_p5jXN8AQM9LWM0D4loKWxJek", None, None)


def test_the_example_of_github() -> None:
    headers = {
        "x-hub-signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
        "x-github-delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
        "x-github-event": "issues",
    }
    told = verified(GITHUB, ["It's a Secret to Everybody"], headers, b"Hello, World!")
    assert told == Verified("72d3162e-cc78-11e3-81ab-4c9367dc0958", "issues", sha256(b"Hello, World!").digest())
    for body, secret in ((b"Hello, World", "It's a Secret to Everybody"), (b"Hello, World!", "it's")):
        refused(GITHUB, [secret], headers, body)


def test_the_example_of_slack_by_a_template() -> None:
    """https://docs.slack.dev/authentication/verifying-requests-from-slack"""
    hook = webhook(
        "hmac",
        secret="S",
        header="X-Slack-Signature",
        prefix="v0=",
        signed="v0:{timestamp}:{body}",
        timestamp_header="X-Slack-Request-Timestamp",
    )
    body = (
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar"
        b"&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack"
        b".com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121"
        b".803a0bc887a14d10d2c447fce8b6703c"
    )
    headers = {
        "x-slack-signature": "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
        "x-slack-request-timestamp": "1531420618",
    }
    at = datetime.fromtimestamp(1531420618, UTC)
    assert verified(hook, ["8f742231b10e8888abcd99yyyzzz85a5"], headers, body, at).id


def test_the_log_is_told_why_and_whoever_called_is_not() -> None:
    for hook, headers, why in (
        (GITHUB, {}, "it has no x-hub-signature-256"),
        (GITHUB, github() | {"x-hub-signature-256": "canary"}, "its x-hub-signature-256 is not of the form sha256=HEX"),
        (GITHUB, github(secret="canary"), "its x-hub-signature-256 fits no secret that the hub has for this hook"),
        (STANDARD, {"webhook-signature": "v1,AA=="}, "it has no webhook-timestamp and no webhook-id"),
    ):
        with pytest.raises(Unverified) as told:
            verified(hook, [SECRET], headers)
        assert (str(told.value), told.value.why) == (NOT_ITS_OWN, why)


# --- Standard Webhooks


def test_several_signatures_and_two_secrets_are_tried() -> None:
    other = "whsec_" + base64.b64encode(b"another secret of 24 bytes").decode()
    headers = standard()
    headers["webhook-signature"] = f"v1a,AAAA {standard(secret=other)['webhook-signature']} v1,%% v1,{'A' * 44}"
    refused(STANDARD, [SECRET], headers)
    assert verified(STANDARD, [SECRET, other], headers).id == "msg_1"
    assert verified(STANDARD, [other, SECRET], headers).id == "msg_1"
    headers["webhook-signature"] = " ".join(["v1,AAAA"] * 10 + [standard()["webhook-signature"]])
    refused(STANDARD, [SECRET], headers)


def test_the_headers_of_svix_are_the_standard_s() -> None:
    assert verified(STANDARD, [SECRET], standard(prefix="svix")).id == "msg_1"
    mixed = standard(prefix="svix") | {"webhook-id": "msg_2"}
    refused(STANDARD, [SECRET], mixed)


@pytest.mark.parametrize("seconds", [-300, 300])
def test_a_timestamp_within_the_tolerance_is_taken(seconds: int) -> None:
    headers = standard(at=NOW + timedelta(seconds=seconds))
    assert verified(STANDARD, [SECRET], headers).id == "msg_1"
    late = NOW + timedelta(seconds=1 if seconds < 0 else -1)
    told = refused(STANDARD, [SECRET], headers, now=late)
    assert "301 s old" in told if seconds < 0 else "301 s ahead" in told
    assert verified(webhook("standard", secret="S", tolerance="6m"), [SECRET], headers, now=late).id == "msg_1"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("webhook-id", "msg_2"),
        ("webhook-id", ""),
        ("webhook-id", None),
        ("webhook-timestamp", str(int(NOW.timestamp()) + 1)),
        ("webhook-timestamp", ""),
        ("webhook-timestamp", None),
        ("webhook-signature", ""),
        ("webhook-signature", None),
        ("webhook-signature", "v1," + base64.b64encode(b"\0" * 32).decode()),
    ],
)
def test_whatever_is_changed_or_missing_is_refused_in_the_same_words(name: str, value: str | None) -> None:
    headers = standard()
    if value is None:
        del headers[name]
    else:
        headers[name] = value
    told = refused(STANDARD, [SECRET], headers)
    with pytest.raises(Unverified) as unknown:
        refuse_unknown(BODY, why="")
    assert told == str(unknown.value)
    assert refused(STANDARD, [SECRET], standard(), BODY + b" ") == told
    assert refused(STANDARD, [], standard()) == told


def test_a_hook_that_is_not_there_costs_what_a_wrong_signature_does(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []
    digest = hmac.digest

    def counted(key: bytes, message: bytes, algorithm: str) -> bytes:
        hashed.append(len(message))
        return digest(key, message, algorithm)

    monkeypatch.setattr(hmac, "digest", counted)
    refused(GITHUB, ["s"], {"x-hub-signature-256": "sha256=00"})
    refused(GITHUB, ["s"], {})
    with pytest.raises(Unverified):
        refuse_unknown(BODY, why="")
    assert hashed == [len(BODY)] * 3


def test_a_signed_timestamp_that_is_none_is_refused() -> None:
    hook = webhook("hmac", secret="S", header="x-signature", timestamp_header="x-time")
    for stamp in ("2026-03-01T12:00:00Z", "1e9", "-1", "٣", "9" * 12, "1772366400.0"):
        content = f"{stamp}.".encode() + BODY
        headers = {"x-signature": hmac.new(b"s", content, sha256).hexdigest(), "x-time": stamp}
        with pytest.raises(Unverified):
            verified(hook, ["s"], headers)


# --- GitHub, and what else is made of the same parts


def test_what_does_not_sign_its_id_is_known_by_what_it_signs() -> None:
    first, second = verified(GITHUB, ["s"], github()), verified(GITHUB, ["s"], github(delivery="d-2", event="fork"))
    assert (first.id, second.id) == ("d-1", "d-2")
    assert first.digest == second.digest == sha256(BODY).digest()
    without = github()
    del without["x-github-delivery"]
    assert verified(GITHUB, ["s"], without).id == f"sha256:{sha256(BODY).hexdigest()}"


def test_a_template_may_sign_the_id_too() -> None:
    hook = webhook("hmac", secret="S", header="X-Sig", encoding="base64", signed="{body}{id}", id_header="X-Id")
    headers = {"x-sig": base64.b64encode(hmac.digest(b"s", BODY + b"7", "sha256")).decode(), "x-id": "7"}
    assert verified(hook, ["s"], headers) == Verified("7", None, None)
    refused(hook, ["s"], headers | {"x-id": "8"})


def test_a_body_that_looks_like_the_template_is_no_part_of_it() -> None:
    body = b"{timestamp}.{id}{body}"
    assert verified(GITHUB, ["s"], github(body), body).kind == "push"


def test_the_old_prefix_and_the_old_hash_open_nothing() -> None:
    digest = hmac.new(b"s", BODY, "sha1").hexdigest()
    refused(GITHUB, ["s"], github() | {"x-hub-signature-256": f"sha1={digest}"})
    refused(GITHUB, ["s"], github() | {"x-hub-signature-256": f"sha256={digest}"})
    refused(GITHUB, ["s"], github() | {"x-hub-signature-256": github()["x-hub-signature-256"].removeprefix("sha256=")})


def test_a_header_that_can_stand_nowhere_is_refused() -> None:
    for bad in ("d\x01", "ä", "x" * 501):
        assert "x-github-delivery" in refused(GITHUB, ["s"], github(delivery=bad))


def test_only_whoever_has_signed_is_told_of_such_a_header() -> None:
    """Any other would learn by it that there is such a hook."""
    for hook, name in ((GITHUB, "x-github-delivery"), (GITHUB, "x-github-event"), (STANDARD, "webhook-id")):
        for bad in ("d\x01", "ä", "x" * 501):
            assert refused(hook, [SECRET], {name: bad}) == NOT_ITS_OWN
    for bad in ("ä", "x" * 501):
        headers = standard(bad) | {"webhook-id": bad.encode().decode("latin-1")}
        assert "webhook-id" in refused(STANDARD, [SECRET], headers)


def test_without_verification_an_id_is_taken_as_it_comes() -> None:
    hook = webhook("none")
    assert verified(hook, [], {}) == Verified(None, None, None)
    assert verified(hook, [], {"webhook-id": "7"}) == Verified("7", None, None)
    assert verified(webhook("none", type_header="X-Event"), [], {"x-event": "push"}).kind == "push"


# --- how a hook is written


FORMS: list[tuple[Hook, dict[str, Any]]] = [
    (GITHUB, {"scheme": "github", "secret": "S"}),
    (webhook("github", secret=["NEW", "OLD"]), {"scheme": "github", "secret": ["NEW", "OLD"]}),
    (STANDARD, {"scheme": "standard", "secret": "S"}),
    (
        webhook("standard", secret="S", tolerance="1m"),
        {"scheme": "standard", "secret": "S", "tolerance_seconds": 60.0},
    ),
    (webhook("none"), {"scheme": "none"}),
    (
        webhook("hmac", secret="S", header="X-Sig", timestamp_header="X-Time", encoding="base64", id_header="X-Id"),
        {
            "scheme": "hmac",
            "secret": "S",
            "header": "x-sig",
            "encoding": "base64",
            "signed": "{timestamp}.{body}",
            "timestamp_header": "x-time",
            "id_header": "x-id",
        },
    ),
]


@pytest.mark.parametrize(("hook", "form"), FORMS)
def test_a_hook_is_read_back_as_it_was_written(hook: Hook, form: dict[str, Any]) -> None:
    assert hook.to_json() == form
    assert Hook.from_json(form) == hook


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"scheme": "gitlab", "secret": "S"}, "scheme 'gitlab'"),
        ({"scheme": "github"}, "secret"),
        ({"scheme": "github", "secret": ["A", "B", "C"]}, "or two while it is exchanged"),
        ({"scheme": "github", "secret": ["A", 1]}, "secret"),
        ({"scheme": "github", "secret": "TOCSIN_DATABASE_URL"}, "no secrets of a webhook"),
        ({"scheme": "github", "secret": "S", "header": "x-sig"}, "header: is what scheme github says"),
        ({"scheme": "github", "secret": "S", "tolerance": "5m"}, "tolerance"),
        ({"scheme": "none", "secret": "S"}, "nothing is verified"),
        ({"scheme": "hmac", "secret": "S"}, "which one has the signature"),
        ({"scheme": "hmac", "secret": "S", "header": "x sig"}, "must be a header's name"),
        ({"scheme": "hmac", "secret": "S", "header": "x", "encoding": "utf-8"}, "encoding"),
        ({"scheme": "hmac", "secret": "S", "header": "x", "signed": "{id}"}, "must have {body}"),
        ({"scheme": "hmac", "secret": "S", "header": "x", "signed": "{body}{body}"}, "once"),
        ({"scheme": "hmac", "secret": "S", "header": "x", "signed": "{body}{secret}"}, "once"),
        ({"scheme": "hmac", "secret": "S", "header": "x", "signed": "{id}{body}"}, "id_header must say"),
        ({"scheme": "hmac", "secret": "S", "header": "x", "signed": "{timestamp}{body}"}, "timestamp_header must say"),
        (
            {"scheme": "hmac", "secret": "S", "header": "x", "signed": "{body}", "timestamp_header": "t"},
            "proves nothing",
        ),
        ({"scheme": "standard", "secret": "S", "tolerance": "0s"}, "tolerance must be"),
        ({"scheme": "standard", "secret": "S", "tolerance": "2d"}, "tolerance must be"),
        ({"scheme": "standard", "secret": "S", "tolerance": "long"}, "tolerance"),
        ({"scheme": "standard", "secret": "S", "tolerant": "2d"}, "'tolerant' is unknown"),
        ({"secret": "S"}, "scheme None"),
    ],
)
def test_a_hook_that_makes_no_sense_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=r"hook") as told:
        Hook.from_json(given)
    assert said in str(told.value)


@pytest.mark.parametrize(("hook", "secret"), [(STANDARD, "whsec_"), (STANDARD, ""), (GITHUB, ""), (GITHUB, " \n")])
def test_a_secret_of_nothing_is_none(hook: Hook, secret: str) -> None:
    """With an empty key everybody can sign."""
    with pytest.raises(BadInput, match="is empty"):
        hook.key_of(secret)


def test_a_secret_in_the_place_of_its_name_is_not_repeated() -> None:
    for secret in ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw=", "It's a Secret to Everybody"):
        with pytest.raises(BadInput, match="not the secret") as told:
            webhook("github", secret=secret)
        assert secret not in str(told.value)
    with pytest.raises(BadInput, match="base64") as told:
        STANDARD.key_of("whsec_!canary!")
    assert "canary" not in str(told.value)
    assert told.value.__cause__ is None

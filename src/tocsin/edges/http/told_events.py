"""What answers about events hold."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field

from tocsin.edges.http.told import Page, example


class Told(BaseModel):
    """What became of an event that was sent."""

    model_config = example(
        source="/shop",
        id="order-42",
        accepted=True,
        runs=["01a21630-dd9d-760f-9a3b-f2dcee862feb"],
        triggers=["invoice-order"],
    )
    source: str
    id: str
    accepted: bool = Field(description="False: it was known, and nothing is done twice.")
    runs: list[UUID] = Field(description="What it called, as far as that was decided at once.")
    triggers: list[str] = Field(description="Of each of these runs the trigger.")


class AllTold(BaseModel):
    items: list[Told] = Field(description="In the order of the events.")


class EventCall(BaseModel):
    """What an event came to at one trigger."""

    trigger: str
    run_id: UUID | None
    state: str | None = Field(description="Of the run; null once it is forgotten.")
    reason: str | None = Field(description="Why there is no run: paused, filter, depth or broken.")


class EventRow(BaseModel):
    """An event that was told."""

    number: int
    source: str
    id: str
    type: str
    subject: str | None
    time: datetime | None
    received_at: datetime
    matched_at: datetime | None = Field(description="When triggers were looked for; null while it waits for that.")
    fault: str | None = Field(description="Why it could not be read.")
    depth: int = Field(description="Runs that stand before it in its chain.")
    size: int | None = Field(description="Bytes of the body, of a webhook's call.")
    calls: list[EventCall]


class EventPage(Page):
    items: list[EventRow]


class Uncalled(BaseModel):
    trigger: str
    because: str


class EventDetail(EventRow):
    extensions: dict[str, Any] = Field(description="Further attributes.")
    data: Any = None
    media: str | None = Field(description="The Content-Type, of a webhook's call.")
    body: str | None = Field(description="Its body as it came, up to 64 KiB.")
    body_base64: str | None = Field(description="The same where it is no text.")
    uncalled: list[Uncalled] = Field(description="Triggers that listen now, and why it did not call them.")


class HookAnswer(BaseModel):
    """A call that is committed."""

    model_config = example(status="accepted", id="msg_2KWPBgLlAfxdpx2AI54pPJ85f4W")
    status: str = Field(description="accepted, or duplicate: it was taken before, and nothing is done twice.")
    id: str = Field(description="The event's.")

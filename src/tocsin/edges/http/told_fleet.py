"""What answers hold of agents, of processes, and of keys: the same fields that the command line's ``--json`` has."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field

from tocsin.edges.http.told import Page


class Agent(BaseModel):
    name: str
    spec: dict[str, Any] = Field(description="Its policy; lengths in seconds.")
    concurrency: int | None
    source: str = Field(description="The app that declared it.")
    declared_at: datetime
    queued: int
    queued_live: int
    queued_late: int
    running: int
    triggers: int
    replicas: list[str] = Field(description="Hubs that serve it.")
    instances: list[str] = Field(description="Processes elsewhere that serve it.")


class AgentPage(Page):
    items: list[Agent]


class RunInHand(BaseModel):
    id: UUID
    agent: str
    fence: int
    since: datetime


class Instance(BaseModel):
    """A process that runs agents elsewhere."""

    id: UUID
    name: str
    version: str
    agents: list[str]
    slots: int
    key: str | None
    replica: str | None
    started_at: datetime
    connected_at: datetime | None
    disconnected_at: datetime | None
    heard_at: datetime
    stalled_at: datetime | None
    culprit: str | None
    ended_at: datetime | None
    state: str = Field(description="alive, draining, stalled, suspect, lost or left.")
    why: str | None
    labels: dict[str, str]
    running: list[RunInHand]


class InstancePage(Page):
    items: list[Instance]


class Replica(BaseModel):
    id: UUID
    name: str
    version: str
    agents: list[str]
    slots: int
    started_at: datetime
    draining: bool
    expires_at: datetime
    renewed_at: datetime
    ended_at: datetime | None
    end_reason: str | None
    locked: bool
    running: int
    state: str = Field(description="alive, draining, silent, released or lost.")


class ReplicaPage(Page):
    items: list[Replica]


class Key(BaseModel):
    name: str
    scopes: list[str]
    agents: list[str]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute.")
    state: str = Field(description="valid, expired or revoked.")


class CreatedKey(Key):
    key: str = Field(description="The key itself, which is told here and never again.")


class Keys(BaseModel):
    items: list[Key]


class Revoked(BaseModel):
    key: str
    revoked: bool

"""A hub elsewhere, asked through its API. It needs the extra ``client`` and nothing of a hub."""

from tocsin.sdk.client.changes import Change, StreamedTransition
from tocsin.sdk.client.client import Client

__all__ = ["Change", "Client", "StreamedTransition"]

"""The edge for processes that run agents elsewhere. The wire: proto/tocsin/v1/agent.proto, docs/protocol.md."""

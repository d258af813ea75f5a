"""The wire between hubs and agent processes, generated from proto/tocsin/v1/agent.proto by ``python3 dev.py proto``."""

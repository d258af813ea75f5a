"""The agents' side of the wire: a process that runs an app's agents for a hub elsewhere."""

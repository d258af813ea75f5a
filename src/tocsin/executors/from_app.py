"""An app's agents, each with the executor of its kind."""

from tocsin.declared import App
from tocsin.engine.executor import Executor
from tocsin.executors.command import Command
from tocsin.executors.inprocess import InProcess, Within, nothing


def executors_of(app: App, slots: int, *, within: Within = nothing) -> tuple[Executor, ...]:
    """One executor for each kind of agent that the app has, with so many slots each. within: surrounds functions."""
    executors: list[Executor] = []
    if app.functions:
        executors.append(InProcess(app.functions, slots=slots, within=within))
    if app.commands:
        executors.append(Command(app.commands, slots=slots))
    return tuple(executors)

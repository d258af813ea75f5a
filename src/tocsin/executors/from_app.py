"""An app's agents, each with the executor of its kind."""

from tocsin.declared import App
from tocsin.engine.executor import Executor
from tocsin.executors.command import Command
from tocsin.executors.inprocess import InProcess


def executors_of(app: App, slots: int) -> tuple[Executor, ...]:
    """One executor for each kind of agent that the app has, with so many slots each."""
    executors: list[Executor] = []
    if app.functions:
        executors.append(InProcess(app.functions, slots=slots))
    if app.commands:
        executors.append(Command(app.commands, slots=slots))
    return tuple(executors)

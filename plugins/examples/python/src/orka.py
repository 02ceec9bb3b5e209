"""What makes policies pleasant to write: phases, errors, last words. Yours to change; nothing else depends on it."""

import io
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, TypeVar

from componentize_py_types import Err
from wit_world.exports.policy import Verdict, Verdict_BuildFailed, Verdict_Succeeded
from wit_world.imports import console, params, types

T = TypeVar("T")


def failure(case: Any, code: str, message: str) -> Err:
    """An error of the policy's own: `code` is stable and dotted, `message` one lower-case sentence."""
    return Err(case(types.ErrorInfo(code, message, None, False, None, None, [])))


def phase(title: str, work: Callable[[], T], ending: Callable[[T], console.Ending] | None = None) -> T:
    """Does `work` as a phase: the log shows its title, its time and whether it failed."""
    with console.Group(title) as group:
        try:
            value = work()
        except BaseException:
            group.finish(console.Ending.FAILED)
            raise
        group.finish(ending(value) if ending else console.Ending.DONE)
        return value


def text(name: str) -> str:
    """A parameter of type `string` or `choice`."""
    value = params.get(name)
    return value.value if isinstance(value, params.Value_Text) else ""


def integer(name: str) -> int | None:
    """A parameter of type `integer`."""
    value = params.get(name)
    return value.value if isinstance(value, params.Value_Integer) else None


def items(name: str) -> list[str]:
    """A parameter of type `list`."""
    value = params.get(name)
    return value.value if isinstance(value, params.Value_List) else []


def succeeded(exit: types.Exit) -> bool:
    """Whether a program ended by itself with status 0."""
    return isinstance(exit, types.Exit_Status) and exit.value == 0


def verdict(exit: types.Exit) -> Verdict:
    """Status 0 is success; anything else is a failed build, passed on unchanged."""
    return Verdict_Succeeded() if succeeded(exit) else Verdict_BuildFailed(exit)


class Lines(io.TextIOBase):
    """A stream whose lines go to the log. Python's own go nowhere: the host keeps their end for the message of a trap."""

    def __init__(self, level: console.Level) -> None:
        self.level = level
        self.rest = ""

    def write(self, text: str) -> int:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            console.log(self.level, line)
        return len(text)

    def end(self) -> None:
        if self.rest:
            self.write("\n")


def policy(run: Callable[[], Verdict]) -> Verdict:
    """Runs a policy. What it prints goes to the log. What the host raised goes back as it came, since its code decides the
    step's outcome; any other exception is said to the host with its traceback, and is the plugin's failure."""
    out, error = Lines(console.Level.INFO), Lines(console.Level.WARN)
    try:
        with redirect_stdout(out), redirect_stderr(error):
            return run()
    except Err:
        raise
    except Exception as exception:
        console.last_words(traceback.format_exc())
        problem = f"{type(exception).__name__}: {exception}"
        raise failure(types.Error_Other, "plugin.exception", problem) from None
    finally:
        out.end()
        error.end()

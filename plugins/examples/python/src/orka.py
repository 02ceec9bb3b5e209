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


def failure(case: Any, code: str, message: str, hint: str | None = None) -> Err:
    """An error of the policy's own: `code` is stable and dotted, `message` one lower-case sentence, `hint` what to do next."""
    return Err(case(types.ErrorInfo(code, message, hint, False, None, None, [])))


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
    """A parameter of type `string` or `choice`; empty if it was not given and has no default."""
    value = parameter(name, params.Value_Text)
    return "" if value is None else value


def flag(name: str) -> bool:
    """A parameter of type `boolean`; false if it was not given and has no default."""
    return bool(parameter(name, params.Value_Boolean))


def integer(name: str) -> int | None:
    """A parameter of type `integer`; none if it was not given and has no default."""
    return parameter(name, params.Value_Integer)


def items(name: str) -> list[str]:
    """A parameter of type `list`; empty if it was not given and has no default."""
    return parameter(name, params.Value_List) or []


# What `plugin.toml` calls each type.
TYPES = {
    params.Value_Text: "string",
    params.Value_Boolean: "boolean",
    params.Value_Integer: "integer",
    params.Value_List: "list",
}


def parameter(name: str, wanted: type) -> Any:
    """A parameter's value. One of another type than `plugin.toml` gives it is a mistake of the policy."""
    value = params.get(name)
    if value is None or isinstance(value, wanted):
        return None if value is None else value.value
    problem = f"is of type `{TYPES[type(value)]}` in `plugin.toml`, and the plugin reads it as `{TYPES[wanted]}`"
    hint = f"change `type` of `[parameters.{name}]` in the plugin's `plugin.toml`, or how the plugin reads it"
    raise failure(types.Error_Invalid, "params.invalid", f"parameter `{name}` {problem}", hint)


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


def told(exception: Exception) -> str:
    """The exception with its traceback, without the lines of this file: the mistake is in the policy that it calls."""
    whole = traceback.TracebackException.from_exception(exception)
    link: traceback.TracebackException | None = whole
    while link:
        own = [frame for frame in link.stack if frame.filename != __file__]
        link.stack = traceback.StackSummary.from_list(own or link.stack)
        link = link.__cause__ or link.__context__
    return "".join(whole.format())


def policy(run: Callable[[], Verdict]) -> Verdict:
    """Runs a policy. What it prints goes to the log. What the host raised goes back as it came, since its code decides the
    step's outcome; any other exception is the plugin's failure, and the log shows its traceback."""
    out, error = Lines(console.Level.INFO), Lines(console.Level.WARN)
    try:
        with redirect_stdout(out), redirect_stderr(error):
            return run()
    except Err:
        raise
    except Exception as exception:
        console.last_words(told(exception))
        problem = f"{type(exception).__name__}: {exception}"
        raise failure(types.Error_Other, "plugin.exception", problem) from None
    finally:
        out.end()
        error.end()

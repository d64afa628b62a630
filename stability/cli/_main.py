"""The program `stability`, without its commands."""

from __future__ import annotations

import functools
import re
import warnings
from typing import Any

import click

from ._output import TERMINATED, Stopped, termination

ALSO = {"gradient": "noise"}
"""Arguments of the library, and the options that stand for them under another name."""


class _BadInput(click.ClickException):
    exit_code = 2


class Command(click.Command):
    """A command that ends with one sentence where its input is bad, and speaks of its own options."""

    def invoke(self, context: click.Context) -> Any:
        shown = warnings.formatwarning
        warnings.formatwarning = lambda message, *where, **more: f"Warning: {self.in_options(str(message))}\n"
        try:
            return super().invoke(context)
        except (ValueError, ArithmeticError) as error:
            raise _BadInput(self.in_options(str(error))) from None
        finally:
            warnings.formatwarning = shown

    @functools.cached_property
    def _names(self) -> dict[str, str]:
        """What the library calls each argument, and what it is on this command line."""
        names = {}
        for one in self.params:
            said = one.human_readable_name if isinstance(one, click.Argument) else one.opts[0]
            for name in (one.name, said.lstrip("-").replace("-", "_")):
                names[str(name)] = said
        return names | {name: names[other] for name, other in ALSO.items() if other in names}

    def in_options(self, message: str) -> str:
        """What the library says of `name`, and its advice name=value, with the options."""

        def option(found: re.Match[str]) -> str:
            name, value = found["name"] or found["argument"], found["value"]
            before = message[: found.start()]
            # Inside brackets it is Python: a noise as it shows itself, a call.
            if name not in self._names or before.count("(") > before.count(")"):
                return found[0]
            said = self._names[name]
            if value is None:
                return f"`{said}`"
            return said if value == "True" else f"{said} {_argument(value)}"

        value = r"\[[^]]*\]|'[^']*'|[-+.\w]*\w"
        return re.sub(rf"`(?P<name>\w+)`|(?<![\w.])(?P<argument>\w+)=(?P<value>{value})", option, message)


def in_options(message: str) -> str:
    """A message as the running command tells it."""
    command = click.get_current_context().command
    return command.in_options(message) if isinstance(command, Command) else message


def _argument(value: str) -> str:
    """A Python value as it is typed on the command line."""
    if value.startswith("["):
        return ",".join(part.strip().strip("'") for part in value[1:-1].split(","))
    return value.strip("'")


class _Sentence(click.Group):
    """Bad input ends with one sentence and exit code 2, Ctrl-C with 1, SIGTERM with 143; no traceback."""

    command_class = Command

    def invoke(self, context: click.Context) -> Any:
        with termination() as heard:
            try:
                return self._invoked(context)
            finally:
                if heard:
                    raise SystemExit(TERMINATED)

    def _invoked(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except ValueError as error:  # of an option's own type, before there is a command
            raise _BadInput(str(error)) from None
        except KeyboardInterrupt as stopped:
            told = stopped if isinstance(stopped, Stopped) else "Interrupted: nothing was saved."
            click.echo(told, err=True)
            raise SystemExit(1) from None


@click.group(
    cls=_Sentence,
    epilog="Example:  stability reproduce --quick",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="sfn-stability", prog_name="stability")
def main() -> None:
    """Stability of stochastic optimizers: how large a step, how much noise."""

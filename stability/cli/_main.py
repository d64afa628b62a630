"""The program `stability`, without its commands."""

from __future__ import annotations

import warnings
from typing import Any

import click

from ._output import TERMINATED, Stopped, termination


class _BadInput(click.ClickException):
    exit_code = 2


class _Sentence(click.Group):
    """Bad input ends with one sentence and exit code 2, Ctrl-C with 1, SIGTERM with 143; no traceback."""

    def invoke(self, context: click.Context) -> Any:
        with termination() as heard:
            try:
                return self._invoked(context)
            finally:
                if heard:
                    raise SystemExit(TERMINATED)

    def _invoked(self, context: click.Context) -> Any:
        shown = warnings.formatwarning
        warnings.formatwarning = lambda message, *where, **more: f"Warning: {message}\n"
        try:
            return super().invoke(context)
        except (ValueError, ArithmeticError) as error:
            raise _BadInput(str(error)) from None
        except KeyboardInterrupt as stopped:
            told = stopped if isinstance(stopped, Stopped) else "Interrupted: nothing was saved."
            click.echo(told, err=True)
            raise SystemExit(1) from None
        finally:
            warnings.formatwarning = shown


@click.group(
    cls=_Sentence,
    epilog="Example:  stability reproduce --quick",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="sfn-stability", prog_name="stability")
def main() -> None:
    """Stability of stochastic optimizers: how large a step, how much noise."""

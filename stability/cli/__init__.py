"""The command line `stability`.

Exit codes: 0 done, 1 a claim or check failed or Ctrl-C was pressed, 2 wrong usage or bad input, 143 ended by
SIGTERM, which leaves the same as Ctrl-C.
"""

from . import advice, landscapes, studies, sweeps, tables, theory, training  # noqa: F401 - each adds its commands
from ._main import main
from ._methods import METHODS

__all__ = ["METHODS", "main"]

"""``python -m stability`` is the command line."""

from .cli._main import main

main()

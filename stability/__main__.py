"""``python -m stability`` is the command line."""

from .cli import main

main()

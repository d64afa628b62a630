"""What every script here does: hand its study to the command line, so that both make the same picture."""

import sys

from stability.cli._main import main


def draw(study: str) -> None:
    """Run one study; further arguments are those of ``stability reproduce``.

    ``--quick``, ``--out FOLDER``, ``--seed N``.
    """
    main(["reproduce", "--only", study, *sys.argv[1:]], prog_name=sys.argv[0])

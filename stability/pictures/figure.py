"""The figure that `stability.plot` returns: it shows itself in a notebook, and in a window from a script.

Imported only when a picture is drawn, because matplotlib is heavy.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from typing import Any

import matplotlib
from matplotlib.backends.registry import backend_registry
from matplotlib.figure import Figure

from .. import _files
from .theme import context


class Picture(Figure):
    """A matplotlib figure that nobody else holds: once its name is gone, so is its memory."""

    def savefig(self, fname: Any, **options: Any) -> None:
        """Write the picture as matplotlib does, but whole or not at all.

        Raises
        ------
        ValueError
            If the place cannot be written, or the format is unknown.
        """
        if not isinstance(fname, (str, os.PathLike)):  # an open stream
            super().savefig(fname, **options)
            return
        path = _files.path_of(fname)
        kind = options.pop("format", None) or path.suffix[1:]
        if not kind:
            kind = self.canvas.get_default_filetype()
            path = path.with_name(f"{path.name.rstrip('.')}.{kind}")
        stream = io.BytesIO()
        super().savefig(stream, format=kind, **options)
        _files.write(path, stream.getvalue())

    def _repr_png_(self) -> bytes:
        """What Jupyter displays, with no magic before it."""
        stream = io.BytesIO()
        with context():
            self.savefig(stream, format="png", dpi="figure")
        return stream.getvalue()

    def show(self, warn: bool = True) -> None:
        """Show the picture: in a notebook below the cell, from a script in a window until that is closed."""
        if self._in_a_window():
            return
        shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
        if hasattr(shell, "kernel"):
            from IPython.display import display

            display(self)
        elif warn:
            warnings.warn(
                'There is no display to open a window on: save the picture with .savefig("picture.png").',
                UserWarning,
                stacklevel=2,
            )

    def _in_a_window(self) -> bool:
        """Open one and wait until it is closed; False where this machine has none to open."""
        from matplotlib import pyplot
        from matplotlib._pylab_helpers import Gcf

        try:
            # Looked at first: making a manager would have the inline backend display the figure as well.
            canvas: Any = backend_registry.load_backend_module(matplotlib.get_backend()).FigureCanvas
            if canvas.required_interactive_framework is None:
                return False
            number = max(pyplot.get_fignums(), default=0) + 1
            manager = pyplot.new_figure_manager(number, FigureClass=lambda: self)
        except ImportError:  # the toolkit is not installed, or there is no display
            return False
        Gcf._set_new_active_manager(manager)  # pyplot holds the figure for as long as its window is open
        pyplot.show()
        return True

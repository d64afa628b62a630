"""The toy problems of the authors' public code, run by our own iteration."""

from _figure import draw

draw("toys")

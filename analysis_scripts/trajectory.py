"""Noise along a path, from beside a saddle to a minimum."""

from _figure import draw

draw("trajectory")

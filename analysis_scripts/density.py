"""Stationary densities of a double well under several methods, and the time over its barrier."""

from _figure import draw

draw("density")

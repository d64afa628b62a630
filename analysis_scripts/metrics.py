"""A quadratic turned against its coordinates: SGD does not see it, Adam does."""

from _figure import draw

draw("metrics")

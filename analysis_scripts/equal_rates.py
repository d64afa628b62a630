"""Equal slowest rates instead of equal steps."""

from _figure import draw

draw("equal-rates")

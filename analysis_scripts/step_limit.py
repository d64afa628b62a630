"""Curvature noise against the largest stable step."""

from _figure import draw

draw("step-limit")

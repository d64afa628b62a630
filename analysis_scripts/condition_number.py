"""Condition number against noise at equal step length."""

from _figure import draw

draw("condition-number")

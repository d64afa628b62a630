"""Paths that contract while their second moments explode."""

from _figure import draw

draw("lyapunov")

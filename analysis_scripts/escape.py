"""Leaving a saddle: against flatness, noise, method and rank."""

from _figure import draw

draw("escape")

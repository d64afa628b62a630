"""Batch sharpness of a network in training, with momentum and without, by the batch."""

from _figure import draw

draw("sharpness")

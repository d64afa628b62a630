"""Real minibatch steps on the breast-cancer table against theory."""

from _figure import draw

draw("real-data")

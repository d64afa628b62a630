"""Phase portraits: what each method does on one landscape."""

from _figure import draw

draw("portrait")

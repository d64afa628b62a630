"""The largest stable step with momentum, by the noise of the curvature and by the batch."""

from _figure import draw

draw("momentum")

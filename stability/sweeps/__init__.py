"""Parameter studies: one function at all points of a grid, a record for each, and what they say together."""

"""Ensembles: paths by the million, in blocks with their own random streams, and their moments."""

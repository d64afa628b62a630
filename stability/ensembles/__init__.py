"""Paths of a flow by the million: requests, plans, blocks with their own random streams, and what is gathered
of them.
"""

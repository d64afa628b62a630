"""Objectives: quadratics, landscapes with saddles, regression on data, networks."""

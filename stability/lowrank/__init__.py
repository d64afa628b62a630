"""Randomized eigensolvers for symmetric indefinite operators known by their block products: arrays only, no
objective.
"""

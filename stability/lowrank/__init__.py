"""Randomized eigensolvers for symmetric indefinite operators known by their block products.

Arrays only: no objective is known here.
"""

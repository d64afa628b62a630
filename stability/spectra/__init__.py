"""Spectral sums ``tr f(H)`` of an operator known by its products alone, with error bars.

The theory's sums over modes (stationary variance, excess risk, effective dimension) are such sums: for a
network of any size they come from Hessian products alone.
"""

"""Noise along a path: a mean that follows the drift, and a tube around it that the noise feeds.

The linear noise approximation (theory, section 2, result 8): ``m' = f(m)`` with ``f = -P g``, and ``S' = J S
+ S J^T + C(m)`` with ``J`` the exact Jacobian of ``f`` and ``C = flow.diffusion``, which holds the factor
`step`. Paths leave the tube's law at relative order `step`.
"""

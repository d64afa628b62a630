"""Stationary densities of a flow's SDE: Fokker-Planck equations on a line and in a plane.

Beside linear theory and ensembles a third witness, valid far from any critical point. `density` is what
users call, `result` what they get. `panels` holds quadrature on a line, `kernel` the Euler-Maruyama chain,
`plane` two dimensions.
"""

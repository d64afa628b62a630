"""Methods as scalar gains, and all readers of a gain.

Divided differences, response, preconditioner, program and SymPy read one formula.
"""

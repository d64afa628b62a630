"""Methods as scalar gains, and all readers of a gain: divided differences, response, preconditioner, program,
SymPy.
"""

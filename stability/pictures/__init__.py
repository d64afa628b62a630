"""Pictures of results: draws what it is given and computes nothing.

The only package that imports matplotlib, and only when a picture is drawn.
"""

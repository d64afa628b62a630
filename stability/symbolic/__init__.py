"""Theorems as SymPy objects, derived from the methods' own gains.

>>> import stability as st
>>> theorem = st.theorem("noise-amplification", method=st.Newton())
>>> theorem.statement
Eq(M, alpha*sigma**2/(2*lambda**2))
>>> theorem.evaluate(lam=0.5, step=0.5, sigma=1.0)
1.0
"""

"""Almost-sure stability: Lyapunov exponents of the random matrix products near a critical point.

Near a critical point one iteration is ``delta+ = B delta`` up to the additive noise, with ``B = I - step X``
drawn anew each time. Paths contract where the top exponent ``lim log|B_n ... B_1| / n`` is negative, second
moments where the spectral radius of ``M -> E[B M B^T]`` is below one. By Jensen the second asks for more: in
the band between, every path converges and the second moment explodes. The exponents are found by QR
decompositions on the way (Benettin et al. 1980) over independent products at once, which also give the error.
"""

"""One mode beyond linearisation: step limits, tail index and variance by quadrature."""

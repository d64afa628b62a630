"""The linearised theory at a critical point: rates, covariances, step limits, validity, bounds."""

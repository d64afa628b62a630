"""A landscape and what methods do on it: critical points, the plane, the line."""

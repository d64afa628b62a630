"""The adviser: the largest stable step, and what noise costs, from products and per-sample numbers alone."""

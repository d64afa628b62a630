"""The matrix-free optimizer loop: the theory's methods on minibatches, counted in passes over the data."""

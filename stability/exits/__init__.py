"""First passage: exact laws on a line, and ensembles that leave a saddle."""

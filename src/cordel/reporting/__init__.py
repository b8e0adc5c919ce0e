"""Pages for readers; every number comes from a file."""

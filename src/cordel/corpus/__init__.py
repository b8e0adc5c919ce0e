"""Documents: where they come from, how they are split, normalised and cleaned."""

"""Whatever is wrong with an input: an exit code, one line that names it, and nothing written."""

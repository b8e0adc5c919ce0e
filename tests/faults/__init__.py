"""Faults that machines have, tried on purpose."""

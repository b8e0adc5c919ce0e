"""Regression tests of the defects that the audit found."""

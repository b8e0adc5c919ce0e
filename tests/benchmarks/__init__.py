"""Tests of the bench's arithmetic; its figures are measured, not tested."""

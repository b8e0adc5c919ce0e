"""Plumbing: how a stage runs, never what it computes. Never a DVC dep (tests/contract)."""

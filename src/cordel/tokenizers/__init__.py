"""Tokenizers: how each is learnt, and one way to load them all."""

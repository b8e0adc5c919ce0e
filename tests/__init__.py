"""Tests. `make test` runs all but `minutes` and `gpu`."""

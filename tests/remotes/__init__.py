"""Branches, experiments and remotes, doing in clones what users do."""

"""Scores of models and samples; pure wherever a number is made."""

"""Pretraining of the teachers of the built-in recipes, from scratch, on the digits data."""

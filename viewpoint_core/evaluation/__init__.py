"""Scores of generated panoramas that need no trained network."""

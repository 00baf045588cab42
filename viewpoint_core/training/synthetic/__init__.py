"""Procedural worlds, drawn from a seed and rendered along every direction of the sphere; clips turned out of photos."""

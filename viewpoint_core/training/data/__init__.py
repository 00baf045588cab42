"""Panoramas to train on: found, checked, captioned, listed in a manifest, read as maps and kept as latents."""

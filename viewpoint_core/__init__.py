"""ViewPoint panoramic video: geometry, conditioning and attention regrouping on plain torch tensors; no host needed."""

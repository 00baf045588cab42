"""Training of ViewPoint models: data, latent cache, model, losses, state; needs the extra "train"."""

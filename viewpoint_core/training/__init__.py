"""Training of ViewPoint models: model, losses, plan, state; data and synthetic worlds. Needs the extra "train"."""

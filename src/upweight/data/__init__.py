"""Training data: how they are held, read and named."""

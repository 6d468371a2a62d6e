"""Training data: how they are held, read and named, and what tells that they moved. Nothing here knows a model."""

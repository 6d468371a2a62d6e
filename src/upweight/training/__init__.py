"""Recorded runs of training: replayed step by step, and differentiated from the last step to the first."""

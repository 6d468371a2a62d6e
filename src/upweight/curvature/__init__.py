"""Curvatures: symmetric operators on flat vectors, with their damping."""

"""Trees of every library as one objective in their leaf values, the structure held fixed; no library is imported."""

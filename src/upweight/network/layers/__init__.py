"""Layers whose gradients are sums of outer products."""

"""Matrices that know no model: factorisations, Kronecker products, sums of outer products, Lanczos, flat vectors.

Vectors come in stacks, batch first: k vectors of length p are a tensor (k, p), and a matrix A acts on its rows.
"""

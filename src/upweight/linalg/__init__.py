"""Matrices that know no model: factorisations, Kronecker products, flat vectors."""

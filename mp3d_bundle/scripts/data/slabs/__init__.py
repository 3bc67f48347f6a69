"""Slabs of neighbouring slices: read from PNG slices and put on an even z lattice.

Imports `boxes`, `data.intensity`.
"""

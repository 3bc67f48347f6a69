"""Slabs of neighbouring slices: read from PNGs or a store of int16 slices, and put on an even z lattice.

Imports `boxes`, `storage`, `data.intensity`.
"""

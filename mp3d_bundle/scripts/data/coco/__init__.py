"""COCO: its instances JSON and its photographs as slabs of three slices.

Imports `boxes` and `data`.
"""

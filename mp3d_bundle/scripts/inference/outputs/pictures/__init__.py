"""Boxes drawn on slices and photographs.

Imports `inference`.
"""

"""Scoring of whole volumes in 3D: matching by protocol, the report, its tables and figure.

Imports `boxes` and the core of `metrics`.
"""

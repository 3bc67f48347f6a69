"""Heads of the detectors: anchors, region proposals, and the second stage.

Imports `boxes`, `instances` and its siblings in `networks`.
"""

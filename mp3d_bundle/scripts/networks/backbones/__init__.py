"""Bodies of the detectors: residual networks, the step from 3D to 2D, the feature pyramid.

Imports only `boxes` and `instances`.
"""

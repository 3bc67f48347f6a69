"""Readers of truth: masks, contours, boxes, labels of slices, each to lesions in the frame of their scan.

Imports `boxes`, `storage`, `data.scans`, `data.importing.true_lesions`.
"""

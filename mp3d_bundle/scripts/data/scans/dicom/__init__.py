"""DICOM series: files found and checked, sorted into stacks, pixels to HU, zips.

Imports `storage` and its siblings in `data.scans`.
"""

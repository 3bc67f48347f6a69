"""Whole CT scans: found in folders and zips, read from volume files, DICOM and PNG slices, in one frame.

Imports `boxes` and `data`.
"""

"""DICOM results: structured report and segmentation next to the source images.

Imports `inference`.
"""

"""Stored volume files: NIfTI, NRRD and MetaImage, with every check that the format allows.

Imports `storage` and its siblings.
"""

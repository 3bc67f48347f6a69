"""Volume files as they are stored: NIfTI, NRRD and MetaImage, with every check that a format has.

Imports `storage` and its siblings.
"""

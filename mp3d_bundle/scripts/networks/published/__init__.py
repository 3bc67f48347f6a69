"""The other published detectors of universal lesion detection, one file each, as their authors released them.

Imports `boxes`, `instances` and the rest of `networks`.
"""

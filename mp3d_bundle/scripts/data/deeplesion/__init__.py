"""DeepLesion: its tables of key slices, its sub-volumes with 3D labels, and data sets written in its format.

Imports `boxes`, `data.records`, `data.scans`, `data.slabs`.
"""

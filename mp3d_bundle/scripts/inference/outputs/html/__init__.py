"""Pages to read in a browser, offline: the report of a scan and the gallery of an evaluation.

Imports `inference`.
"""

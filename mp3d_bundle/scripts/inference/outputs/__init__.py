"""Results of a scan as files: a table of outputs, and one file for each format.

Imports `boxes` and `inference`.
"""

"""What ``python -m scripts compare-scans`` does: two results of one patient to a table and a page of changes.

Imports `storage`, `inference.outputs`.
"""

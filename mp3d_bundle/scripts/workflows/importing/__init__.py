"""What ``python -m scripts import`` does: scans and their truth to a set, and the page that shows it.

Imports `storage`, `data.importing`, `data.scans`, `inference.outputs`.
"""

"""What becomes of the results of a scan on their way to others: a person's review, and a server that gets them.

Imports `storage`, `data.importing`, `inference`.
"""

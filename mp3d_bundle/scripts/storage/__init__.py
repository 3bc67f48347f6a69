"""Files that survive what befalls files: written whole, read with every check, never outside their folder.

Imports nothing of ours.
"""

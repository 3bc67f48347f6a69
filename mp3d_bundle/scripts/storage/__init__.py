"""Reading and writing files safely: written whole or not at all, checked on reading, never outside their folder.

Imports no other package of ours.
"""

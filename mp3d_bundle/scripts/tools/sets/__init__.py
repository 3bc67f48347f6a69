"""The work behind commands on imported sets as a whole: cross-validation over their folds.

Imports `storage`, `data.importing`.
"""

"""The running config seen from inside: options as typed and their bounds, keys that nothing reads, recipes.

Imports `boxes`, `storage`, `recipe`, `weights`; `training` and `workflows` import it.
"""

"""What a `run` of the bundle does: evaluate, infer, score volumes, serve MONAI Label.

May import everything but the command-line modules.
"""

"""Training on top of Ignite and MONAI: steps, schedule, checkpoints, start weights, record of a run.

Imports `boxes`, `networks`, `data`, `metrics`, `inference` and `weights`; `workflows` imports it.
"""

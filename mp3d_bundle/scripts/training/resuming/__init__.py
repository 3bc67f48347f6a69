"""What makes a training resume bit for bit: checkpoints, random state, order of samples, signals, records.

Imports what `training` may import.
"""

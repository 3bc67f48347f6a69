"""Engines: libraries that run the plain tensor code of a network faster than PyTorch does.

Proposals, RoIAlign and suppression stay in PyTorch. See docs/performance.md.
"""

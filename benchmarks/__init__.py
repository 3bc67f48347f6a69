"""Measurements, each a ratio to a peer in the same run; ``make bench`` runs them all.

A benchmark is a module here with ``main() -> None`` that prints its figures; names with a leading underscore are
not benchmarks.
"""

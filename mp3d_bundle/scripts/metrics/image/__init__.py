"""Scoring of single images: the report, its tables, and the metrics that Ignite engines take.

Imports `boxes` and the core of `metrics`.
"""

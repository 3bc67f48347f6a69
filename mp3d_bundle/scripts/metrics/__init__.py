"""Scoring: FROC, average precision, intervals, reports."""

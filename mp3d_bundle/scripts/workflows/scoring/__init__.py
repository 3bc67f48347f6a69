"""What the scoring of outside detections reads.

Imports `storage`.
"""

"""Figures of merit of free-response studies."""

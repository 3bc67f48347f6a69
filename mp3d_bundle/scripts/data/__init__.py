"""Readers, slabs, transforms and the synthetic data set."""

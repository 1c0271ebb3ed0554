"""Measurements that are too slow or noisy to be tests; docs/measurements.md has their results."""

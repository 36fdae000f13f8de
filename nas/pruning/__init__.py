"""Pruning: a trained network loses channels until it meets a latency."""

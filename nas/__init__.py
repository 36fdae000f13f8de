"""Networks: spaces, architectures, supernets, searches, training.

Every millisecond comes from ``latbench``.
"""

"""Networks: spaces, architectures, supernets, searches, training. Knows no milliseconds."""

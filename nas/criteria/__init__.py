"""Losses. A new one is one file here and one line in ``CRITERIA``.

Losses of a cost over its target stand in ``nas.criteria.hardware``.
"""

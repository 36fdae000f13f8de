"""Rendering of graphs: ``onnx`` builds ONNX models, ``torch`` builds modules.

Both read the same graph and the same parameters (``parameters``), so they compute equal outputs.
``torch`` is imported only when it is needed.
"""

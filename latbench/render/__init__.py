"""Graphs made runnable: ``onnx`` builds ONNX models, ``torch`` builds modules; equal outputs.

Both read the same graph and the same parameters (``parameters``). ``torch`` is imported only by
those who ask for it.
"""

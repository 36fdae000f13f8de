"""Blocks, devices and time: profile a device, price a network, verify the price.

This package knows nothing of architectures or training (see ``nas``). Its functions take
block specs, or tuples of them as networks, and speak milliseconds.
"""

__version__ = "0.1.0"

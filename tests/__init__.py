"""Tests of latbench.

One thread a process, also of those that tests start: tests run side by side, and sums by several
threads round in another order. The libraries read this when they are imported.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

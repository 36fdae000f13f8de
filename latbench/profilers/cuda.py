"""What CUDA profilers need to be installed, and PyCUDA, on which the one of TensorRT stands.

PyCUDA's own ways to a context follow an environment variable and a file in the home folder; here
it gets the primary context of the GPU that is measured, the one that all runtimes share.
"""

from __future__ import annotations

import atexit
from functools import lru_cache
from typing import Any

from latbench.profilers.base import missing_package
from latbench.profilers.driver import GPU_INDEX
from latbench.profilers.gpu import no_gpu


def no_nvml() -> str | None:
    """Why the GPU's clocks cannot be read, or None if they can."""
    return missing_package("pynvml", "nvidia-ml-py", "gpu")


def no_pycuda() -> str | None:
    """Why nothing can be measured by way of PyCUDA, or None if it can."""
    return no_gpu() or missing_package("pycuda", "PyCUDA", "cuda") or no_nvml()


@lru_cache(maxsize=1)
def pycuda_driver() -> Any:
    """PyCUDA's driver interface, with the primary context current."""
    import pycuda.driver

    pycuda.driver.init()
    context = pycuda.driver.Device(GPU_INDEX).retain_primary_context()
    context.push()
    atexit.register(context.pop)  # PyCUDA aborts where a context is left behind
    return pycuda.driver

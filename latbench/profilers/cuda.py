"""Packages that CUDA profilers need, and the set-up of PyCUDA, which the TensorRT profiler uses.

PyCUDA itself would choose a GPU by an environment variable and a file in the home folder. Here it
uses the primary context of the measured GPU, which all runtimes share.
"""

from __future__ import annotations

import atexit
from functools import lru_cache
from typing import Any

from latbench.errors import RuntimeFailure, in_one_line
from latbench.profilers.base import missing_package
from latbench.profilers.driver import GPU_INDEX
from latbench.profilers.gpu import no_gpu


def no_nvml() -> str | None:
    """Reason why the GPU's clocks cannot be read; None if they can."""
    return missing_package("pynvml", "nvidia-ml-py", "gpu")


def no_pycuda() -> str | None:
    """Reason why PyCUDA cannot be used; None if it can."""
    return no_gpu() or missing_package("pycuda", "PyCUDA", "cuda") or no_nvml()


@lru_cache(maxsize=1)
def pycuda_driver() -> Any:
    """PyCUDA's driver interface, with the primary context current.

    Raises:
        RuntimeFailure: PyCUDA cannot be loaded, or the GPU cannot be used.
    """
    try:
        import pycuda.driver
    except ImportError as error:  # such as a library of CUDA that is not there
        raise RuntimeFailure(f"PyCUDA cannot be loaded: {in_one_line(error)}") from error
    try:
        pycuda.driver.init()
        context = pycuda.driver.Device(GPU_INDEX).retain_primary_context()
        context.push()
    except pycuda.driver.Error as error:
        raise RuntimeFailure(f"PyCUDA cannot use the GPU: {in_one_line(error)}") from error
    atexit.register(context.pop)  # PyCUDA aborts the process if a context is still current at exit
    return pycuda.driver

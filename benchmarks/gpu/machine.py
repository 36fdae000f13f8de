"""What the check runs on: machine, GPU, driver, clocks, versions."""

from __future__ import annotations

import importlib
from importlib import metadata

import torch

from benchmarks.gpu.conditions import Conditions
from benchmarks.gpu.record import Record
from latbench.environment import current_environment

_PACKAGES = (
    "torch", "torchvision", "numpy", "scipy", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt",
    "nvidia-ml-py", "pycuda", "cuda-bindings", "click", "rich", "msgspec", "pillow", "pytest",
)  # fmt: skip
_MODULES = ("latbench", "nas", "cli", "nas.data.imagenet", "hypothesis", "pymoo", "tensorboard")


def run(conditions: Conditions, record: Record) -> None:
    """Write down what there is; what cannot be imported is named."""
    here = current_environment({})
    record.add(
        f"{here.cpu}, {here.cores} cores, {here.memory_mib / 1024:.0f} GiB, {here.system}, "
        f"{here.taken_at}",
        cpu=here.cpu,
        cores=here.cores,
        memory_mib=here.memory_mib,
        taken_at=here.taken_at,
    )
    versions = {"python": here.versions["python"]}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "-"
    record.add("  ".join(f"{k} {v}" for k, v in versions.items() if v != "-"), versions=versions)
    missing = []
    for name in _MODULES:
        try:
            importlib.import_module(name)
        except Exception as error:
            missing.append(f"{name}: {error}")
    record.add(f"cannot import: {'; '.join(missing) or 'nothing'}", missing=missing)
    if conditions.tiny:
        return
    found = torch.cuda.get_device_properties(0)
    record.add(
        f"{found.name}, {found.total_memory / 2**30:.1f} GiB, {found.multi_processor_count} SMs, "
        f"L2 {found.L2_cache_size / 2**20:.0f} MiB, CUDA {torch.version.cuda}, "
        f"cuDNN {torch.backends.cudnn.version()}",
        gpu=found.name,
        gpu_memory_bytes=found.total_memory,
        l2_bytes=found.L2_cache_size,
    )
    from latbench.profilers.gpu import read_gpu

    x = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)

    def keep_busy() -> None:
        for _ in range(200):
            x @ x

    gpu = read_gpu(keep_busy)
    torch.cuda.synchronize()
    record.add(
        f"driver {gpu.driver}, {gpu.clock_mhz} MHz under load (base {gpu.base_clock_mhz}, highest "
        f"{gpu.max_clock_mhz}), held back by: {', '.join(gpu.throttled_by) or 'nothing'}",
        driver=gpu.driver,
        clock_mhz=gpu.clock_mhz,
        base_clock_mhz=gpu.base_clock_mhz,
        max_clock_mhz=gpu.max_clock_mhz,
        throttled_by=gpu.throttled_by,
    )

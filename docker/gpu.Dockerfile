# latbench with torch, ONNX Runtime and TensorRT on an NVIDIA GPU.
#
#     docker build -f docker/gpu.Dockerfile -t latbench-gpu .
#     docker run --rm --gpus all -v "$PWD:/work" latbench-gpu profile cuda-pytorch-b32 tfnas -o t.sqlite
#
# The host needs a driver that knows CUDA 13 and the NVIDIA Container Toolkit. PyCUDA, for TensorRT,
# is built from source: the first stage has the compiler, the second one only what runs, with the
# random numbers of CUDA, which PyCUDA is linked to.

FROM nvidia/cuda:13.0.1-devel-ubuntu24.04 AS packages
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/latbench
ENV PATH=/opt/latbench/bin:$PATH
WORKDIR /source
COPY . .
# ONNX Runtime's build for GPUs replaces the one for CPUs: both are the module onnxruntime
# hadolint ignore=DL3013
RUN pip install --no-cache-dir '.[nas,tensorrt,report]' \
    && pip uninstall --yes onnxruntime \
    && pip install --no-cache-dir 'onnxruntime-gpu[cuda,cudnn]'

FROM nvidia/cuda:13.0.1-base-ubuntu24.04
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libcurand-13-0 python3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=packages /opt/latbench /opt/latbench
ENV PATH=/opt/latbench/bin:$PATH
USER 1000
WORKDIR /work
ENTRYPOINT ["latbench"]
CMD ["--help"]

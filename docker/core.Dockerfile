# latbench without torch: measures, predicts, fits and verifies on a CPU.
#
#     docker build -f docker/core.Dockerfile -t latbench .
#     docker run --rm -v "$PWD:/work" latbench bench a.onnx b.onnx --device cpu-onnxruntime
#
# A container shares the processor with everything else on its host. Give it cores of its own
# (--cpuset-cpus 0,1), or its latencies are those of a loaded machine.

FROM python:3.13-slim AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.13-slim
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir /wheels/*.whl && rm -r /wheels
RUN useradd --create-home --uid 1000 latbench
USER 1000
WORKDIR /work
ENTRYPOINT ["latbench"]
CMD ["--help"]

# docker build -t calibsweep .                                                       # CPU
# docker build -t calibsweep --build-arg TORCH=https://pypi.org/simple .             # CUDA; run with --gpus all
# docker run --rm --ipc host --user "$(id -u):$(id -g)" -v "$PWD:/work" calibsweep run reference
FROM python:3.12-slim AS wheels

COPY . /src
RUN cp -r /src/sweep/reference/models/reference-17m /src/packages/models/ && \
    pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /src /src/packages/models

FROM python:3.12-slim

# Where the build of torch comes from: that of PyPI needs a driver of CUDA 13.
ARG TORCH=https://download.pytorch.org/whl/cpu
# Images that are built on different days make one cluster, whose machines refuse another version of Ray.
ARG RAY_VERSION=2.60.0
# Any user may run the image, so what libraries keep at home goes where everybody may write.
ENV PYTHONUNBUFFERED=1 HOME=/home/calibsweep
ARG PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1

# Triton compiles its kernels with a C compiler the first time that a GPU needs them; Kubernetes asks Ray by wget whether
# it is well.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev wget && \
    rm -rf /var/lib/apt/lists/* && mkdir --mode=1777 "$HOME"

RUN pip install "torch>=2.11,<2.14" --index-url "$TORCH"

RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    pip install /wheels/*.whl "calibration-sweep[export,gguf]" "ray[default]==$RAY_VERSION"

WORKDIR /work
ENTRYPOINT ["calibsweep"]
CMD ["--help"]

# docker build -t calibsweep .                                                    # CPU
# docker build -t calibsweep --build-arg TORCH=https://download.pytorch.org/whl/cu128 .   # CUDA; run with --gpus all
# docker run --rm --shm-size 4g -v "$PWD:/work" calibsweep run reference
FROM python:3.12-slim

ARG TORCH=https://download.pytorch.org/whl/cpu
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1

# Triton compiles its kernels with a C compiler the first time that a GPU needs them; Kubernetes asks Ray by wget whether
# it is well.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev wget && rm -rf /var/lib/apt/lists/*

RUN pip install "torch>=2.11,<2.14" --index-url "$TORCH"

COPY . /src
RUN pip install "/src[export,gguf]" && \
    cp -r /src/sweep/reference/models/reference-17m "$(python -P -c 'import sweep.models as m; print(m.MODELS)')/" && \
    rm -rf /src

WORKDIR /work
ENTRYPOINT ["calibsweep"]
CMD ["--help"]

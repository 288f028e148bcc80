# CPU:   docker build -t oneformer .
# CUDA:  docker build -t oneformer:cuda --build-arg BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04 --build-arg FORCE_CUDA=1 .
#        docker run --gpus all ...
# The CUDA image is a -devel one because the operators are compiled in it, for the architectures below.
ARG BASE=ubuntu:24.04
FROM ${BASE}

ARG FORCE_CUDA=0
ARG TORCH="torch==2.11.0 torchvision==0.26.0"
ARG TORCH_CUDA_ARCH_LIST="8.0;8.6;8.9;9.0;12.0"
ENV DEBIAN_FRONTEND=noninteractive PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH

RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-dev python3-venv g++ ninja-build \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv "$VIRTUAL_ENV"

# What changes seldom comes first, so that an edit of the package does not download torch again.
RUN pip install "setuptools>=70.1,<82" wheel ${TORCH}
COPY segcore/install_detectron2.py /tmp/install_detectron2.py
RUN python /tmp/install_detectron2.py && rm /tmp/install_detectron2.py

WORKDIR /workspace
COPY . .
RUN FORCE_CUDA=${FORCE_CUDA} TORCH_CUDA_ARCH_LIST="${TORCH_CUDA_ARCH_LIST}" pip install --no-build-isolation -e ".[demo]" \
    && python -m segcore.ops.info

# Pictures go in and results come out through a mounted folder:
#   docker run --rm -v "$PWD:/data" oneformer --task all --input /data/photo.jpg --output /data/results
ENTRYPOINT ["python", "demo/demo.py"]
CMD ["--help"]

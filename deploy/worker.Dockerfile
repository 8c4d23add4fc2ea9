# The worker: torch, DeepSpeed and the built-in recipe with its teacher. Runs on a GPU if the container has one
# (docker run --gpus all), else on the CPU.
#
#     docker build -f deploy/worker.Dockerfile -t optima-worker .
#
# torch's default build carries CUDA, which makes this an image of several GB. A CPU-only machine is served as well
# by the much smaller CPU build, which lives in a package index of its own: PyTorch's installation page names it, as the
# --index-url of the command for "CPU". The build argument TORCH_INDEX takes that address:
#
#     docker build -f deploy/worker.Dockerfile -t optima-worker --build-arg TORCH_INDEX=... .
#
# There is no compiler in it: a DeepSpeed setting that compiles an op needs an image that adds one.

FROM python:3.11-slim
ARG TORCH_INDEX=
WORKDIR /src
# Packages before sources, as in server.Dockerfile. What is installed of OPTIMA itself is its name and version; it
# runs from /app, as from a checkout.
COPY pyproject.toml LICENSE ./
RUN touch README.md \
    && if [ -n "$TORCH_INDEX" ]; then pip install --no-cache-dir --index-url "$TORCH_INDEX" torch torchvision; fi \
    && pip install --no-cache-dir '.[worker]' \
    && rm -rf /src/* "$(command -v optima)"
RUN groupadd --gid 10001 optima \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin optima
WORKDIR /app
COPY protos ./protos
COPY worker ./worker
COPY deploy ./deploy
# Readable whatever the umask of the checkout was. And the default output directory; a volume mounted there takes over
# its owner.
RUN chmod -R a+rX . && mkdir runs && chown 10001:10001 runs
# Caches belong to the container's scratch space, as its root may be read-only.
ENV HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
VOLUME /app/runs
ENTRYPOINT ["deploy/worker-entrypoint.sh"]
CMD ["deepspeed", "worker/train.py", "--help"]

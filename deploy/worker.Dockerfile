# The worker: torch, DeepSpeed and the built-in recipe with its teacher. It trains on the container's GPUs
# (docker run --gpus all), or on the CPU without any.
#
#     docker build -f deploy/worker.Dockerfile -t optima-worker .
#
# torch's default build contains CUDA, which makes this an image of several GB. For machines without a GPU the CPU build
# is enough, and much smaller. Set the build argument TORCH_INDEX to its package index: the --index-url of the command
# for "CPU" on PyTorch's installation page.
#
#     docker build -f deploy/worker.Dockerfile -t optima-worker --build-arg TORCH_INDEX=... .
#
# The image has no compiler: for a DeepSpeed setting that compiles an op, build an image on top that adds one.

FROM python:3.11-slim
ARG TORCH_INDEX=
WORKDIR /src
# Packages before sources, as in server.Dockerfile. Of OPTIMA itself only the name and version are installed; it runs
# from /app, as from a checkout.
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
# Make the sources readable, whatever the umask of the checkout; and create the default output directory, whose owner a
# volume mounted there inherits.
RUN chmod -R a+rX . && mkdir runs && chown 10001:10001 runs
# Caches go to /tmp, as the root filesystem may be read-only.
ENV HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
VOLUME /app/runs
ENTRYPOINT ["deploy/worker-entrypoint.sh"]
CMD ["deepspeed", "worker/train.py", "--help"]

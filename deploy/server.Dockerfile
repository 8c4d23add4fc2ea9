# The bandit server and the dashboard: one image for both commands, without torch.
#
#     docker build -f deploy/server.Dockerfile -t optima-server .

FROM python:3.11-slim AS build
RUN python -m venv /opt/optima
WORKDIR /src
# Packages before sources, so that a change of the sources does not reinstall them.
COPY pyproject.toml LICENSE ./
RUN touch README.md && /opt/optima/bin/pip install --no-cache-dir '.[server]'
COPY protos ./protos
COPY bandit_server ./bandit_server
RUN /opt/optima/bin/pip install --no-cache-dir --no-deps --force-reinstall .

FROM python:3.11-slim
RUN groupadd --gid 10001 optima \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin optima
COPY --from=build /opt/optima /opt/optima
# Allocate from the C library: Python's own allocator frees memory in arenas of 1 MB, and one small live object keeps an
# arena, so memory that many runs have used would not return to the system (docs/server-speed.md).
ENV PATH=/opt/optima/bin:$PATH \
    PYTHONMALLOC=malloc \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 50051 8080
ENTRYPOINT ["optima"]
CMD ["--help"]

# The bandit server and the dashboard: one image, two commands. There is no torch in it.
#
#     docker build -f deploy/server.Dockerfile -t optima-server .

FROM python:3.11-slim AS build
RUN python -m venv /opt/optima
WORKDIR /src
# Packages before sources: they change seldom, and a change of the sources should not install them again.
COPY pyproject.toml LICENSE ./
RUN touch README.md && /opt/optima/bin/pip install --no-cache-dir '.[server]'
COPY protos ./protos
COPY bandit_server ./bandit_server
RUN /opt/optima/bin/pip install --no-cache-dir --no-deps --force-reinstall .

FROM python:3.11-slim
RUN groupadd --gid 10001 optima \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin optima
COPY --from=build /opt/optima /opt/optima
# Memory from the C library: Python's own allocator gives it back in pieces of a megabyte, and one small object that stays
# holds a piece, so that what a crowd of runs has used would stay (docs/server-speed.md).
ENV PATH=/opt/optima/bin:$PATH \
    PYTHONMALLOC=malloc \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 50051 8080
ENTRYPOINT ["optima"]
CMD ["--help"]

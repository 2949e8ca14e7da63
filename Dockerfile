# One image for every role, and for the NATS servers of the Helm chart.
#
#     docker build -t hubwire:dev .        (or podman, or buildah)
#     docker run --rm -p 8080:8080 hubwire:dev up --host 0.0.0.0 --memory
#
# It runs as user 10001 with a read-only root and calls no shell.

ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS build
# tini is process 1: it passes signals on from the first moment, also before Python listens for them, and
# reaps what `kubectl exec` leaves behind.
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends tini
RUN python -m venv /opt/tools && /opt/tools/bin/pip install --no-cache-dir --quiet hatchling cyclonedx-bom
RUN python -m venv /opt/venv
WORKDIR /src
# What we depend on changes seldom: a layer of its own, made again only with pyproject.toml.
COPY pyproject.toml ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > /tmp/requirements.txt \
    && /opt/venv/bin/pip install --no-cache-dir --quiet -r /tmp/requirements.txt
COPY README.md LICENSE ./
COPY hubwire hubwire
COPY gateway gateway
COPY router router
COPY controlplane controlplane
RUN /opt/tools/bin/python -m hatchling build -t wheel -d /tmp/wheel \
    && /opt/venv/bin/pip install --no-cache-dir --quiet --no-deps /tmp/wheel/*.whl \
    && /opt/venv/bin/pip uninstall --quiet --yes setuptools pip \
    && /opt/tools/bin/cyclonedx-py environment /opt/venv --output-reproducible --of JSON -o /opt/venv/sbom.cdx.json

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=""
LABEL org.opencontainers.image.title="hubwire" \
      org.opencontainers.image.description="Azure Web PubSub that anyone can run" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /usr/bin/tini-static /usr/local/bin/tini
COPY --from=build /opt/venv /opt/venv
# Nothing can be written where the code is, so no bytecode is either: pip has compiled it.
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080 9464
ENTRYPOINT ["tini", "--", "hubwire"]
CMD ["up", "--host", "0.0.0.0", "--memory"]

# One file, two images: `--target node` is a member, `--target operator` is what runs members on Kubernetes.
#
# Both run as an unprivileged user on a read-only root file system: everything a process writes goes below its data
# directory or /tmp. Every package comes by hash from requirements/, and is byte-compiled here, because nothing can be
# at run time. LOGNAME is set because the user id, whichever a cluster prescribes, has no name. BASE may be any Debian
# with Python >= 3.11, venv and pip.
ARG BASE=python:3.13-slim

FROM ${BASE} AS packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements/build.txt requirements/node.txt requirements/
RUN python3 -m venv --without-pip /opt/build \
 && python3 -m pip --python /opt/build/bin/python install --require-hashes -r requirements/build.txt \
 && python3 -m venv --without-pip /opt/oarlock \
 && python3 -m pip --python /opt/oarlock/bin/python install --require-hashes -r requirements/node.txt

FROM packages AS operator-packages
COPY requirements/operator.txt requirements/
RUN python3 -m pip --python /opt/oarlock/bin/python install --require-hashes -r requirements/operator.txt

FROM packages AS wheel
COPY pyproject.toml README.md LICENSE ./
COPY node/ node/
COPY operator/ operator/
RUN /opt/build/bin/python -m hatchling build -t wheel -d /dist

FROM packages AS node-venv
COPY --from=wheel /dist /dist
RUN python3 -m pip --python /opt/oarlock/bin/python install --no-deps --no-index /dist/*.whl

FROM operator-packages AS operator-venv
COPY --from=wheel /dist /dist
RUN python3 -m pip --python /opt/oarlock/bin/python install --no-deps --no-index /dist/*.whl

FROM ${BASE} AS node
LABEL org.opencontainers.image.title="oarlock" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=node-venv /opt/oarlock /opt/oarlock
ENV PATH=/opt/oarlock/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp LOGNAME=oarlock \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /
EXPOSE 2379 2380 2381
ENTRYPOINT ["oarlock"]

FROM ${BASE} AS operator
LABEL org.opencontainers.image.title="oarlock-operator" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=operator-venv /opt/oarlock /opt/oarlock
ENV PATH=/opt/oarlock/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp LOGNAME=oarlock \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /
EXPOSE 8080
ENTRYPOINT ["oarlock-operator"]

# imgproxy in a container.
#
#   docker build -t imgproxy .
#   docker run --read-only --volume imgproxy-cache:/var/cache/imgproxy --publish 8080:8080 \
#     --env IMGPROXY_ORIGIN__URL=https://media.example.com --env IMGPROXY_ORIGIN__TOKEN=... imgproxy
#
# deploy/prove-dockerfile.sh builds it without a Docker daemon, runs it read-only and checks what is promised here.
# The base is Debian 12 with Debian's own Python 3.11: security fixes come with a rebuild, from one source. Any Debian
# that has Python >= 3.11 will do (BASE=debian:trixie-slim).
ARG BASE=debian:bookworm-slim

# --- what both stages need: Python, certificates for the origin, the allocator -----------------------------------
FROM ${BASE} AS python
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates libjemalloc2 python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/cache/ldconfig /var/log/apt /var/log/dpkg.log

# --- build: nothing of this stage but /opt/imgproxy goes into the image ------------------------------------------
FROM python AS build
RUN apt-get update && apt-get install --yes --no-install-recommends python3-venv
WORKDIR /build
COPY requirements.lock requirements-build.lock ./
# Everything that is downloaded has its hash in a lock file: what runs, and the backends that build what comes as source
# (pyvips, and this project). /opt/imgproxy has no pip of its own; the builder's pip fills it and writes the bytecode now,
# as the root file system is read-only later.
# Behind a package mirror or a proxy with its own certificate: `--secret id=pip.conf,src=...`, `--secret id=ca.crt,src=...`
# with `cert = /run/secrets/ca.crt` in that pip.conf. Both are there for these steps only.
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.crt \
    python3 -m venv /opt/builder \
 && /opt/builder/bin/pip install --only-binary=:all: --require-hashes -r requirements-build.lock \
 && /opt/builder/bin/pip wheel --require-hashes --no-deps --no-build-isolation --wheel-dir dist -r requirements.lock
COPY pyproject.toml README.md ./
COPY src ./src
RUN /opt/builder/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
 && python3 -m venv --without-pip /opt/imgproxy \
 && /opt/builder/bin/pip --python /opt/imgproxy/bin/python install --no-index --no-deps dist/*.whl

# --- the image ---------------------------------------------------------------------------------------------------
FROM python
RUN groupadd --system --gid 10001 imgproxy \
 && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /var/cache/imgproxy \
      --shell /usr/sbin/nologin imgproxy \
 && install --directory --owner=imgproxy --group=imgproxy --mode=0750 /var/cache/imgproxy \
 && rm -f /var/log/lastlog /var/log/faillog
COPY --from=build /opt/imgproxy /opt/imgproxy
COPY deploy/healthcheck.py /opt/imgproxy/healthcheck.py

# jemalloc gives memory back: freed pages return to the system after dirty_decay_ms, by its own thread, so also while
# no one asks for anything. With glibc's allocator render processes do so by themselves, with thresholds and when they
# rest. The proof prints both: 24 MP rendered 40 times on 2 cores took 218 MB in all processes and 118 at rest, with
# glibc (LD_PRELOAD=) 168 and 113.
# The name without a path is found by the loader on every architecture.
ENV LD_PRELOAD=libjemalloc.so.2 \
    MALLOC_CONF=background_thread:true,dirty_decay_ms:5000,muzzy_decay_ms:0 \
    PATH=/opt/imgproxy/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TMPDIR=/var/cache/imgproxy \
    IMGPROXY_SERVER__HOST=0.0.0.0 \
    IMGPROXY_CACHE__DIR=/var/cache/imgproxy

# By number, so that `runAsNonRoot` can be checked without reading /etc/passwd.
USER 10001:10001
WORKDIR /var/cache/imgproxy
VOLUME /var/cache/imgproxy
EXPOSE 8080
STOPSIGNAL SIGTERM
# Only whether it is alive: a container must not be restarted because the origin is down (that is /-/ready's business).
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
  CMD ["/opt/imgproxy/bin/python", "-I", "/opt/imgproxy/healthcheck.py"]
ENTRYPOINT ["imgproxy"]
CMD ["serve"]

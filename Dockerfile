# imgproxy in a container.
#
#   docker build -t imgproxy .
#   docker run --read-only --volume imgproxy-cache:/var/cache/imgproxy --publish 8080:8080 \
#     --env IMGPROXY_ORIGIN__URL=https://media.example.com --env IMGPROXY_ORIGIN__TOKEN=... imgproxy
#
# deploy/prove-dockerfile.sh builds it without a Docker daemon, runs it read-only and checks what is promised here.
# The base is Debian 12 with Debian's own Python 3.11, pinned by the digest of its index of all architectures: amd64 and
# arm64 have one Dockerfile. docs/release.md says how to renew it. `apt-get upgrade` brings what was mended since then, so
# a rebuild has all security fixes, from one source. Any Debian with Python >= 3.11 works (BASE=debian:trixie-slim).
ARG BASE=debian:bookworm-slim@sha256:88200866dfff7ea7f5cbcb6ec7c8a701889efe6fe859fe64d6990e4b07ea4171

# --- for both stages: Python, certificates for the origin, the allocator -----------------------------------------
FROM ${BASE} AS python
RUN apt-get update \
 && apt-get upgrade --yes \
 && apt-get install --yes --no-install-recommends ca-certificates libjemalloc2 python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/cache/ldconfig /var/log/apt /var/log/dpkg.log

# --- build: only /opt/imgproxy of this stage goes into the image --------------------------------------------------
FROM python AS build
RUN apt-get update && apt-get install --yes --no-install-recommends python3-venv
WORKDIR /build
# What runs. With face detection and Content Credentials (240 and 70 MB more on disk): --build-arg LOCK=requirements-faces.lock
ARG LOCK=requirements.lock
COPY ${LOCK} requirements-build.lock ./
# Every download has its hash in a lock file: the libraries, with the extras cluster, heic, store and telemetry, and the backends of source
# packages (pyvips, and this project). /opt/imgproxy has no pip. The builder's pip fills it and compiles the bytecode
# now, because the root file system is read-only later.
# For a package mirror or a proxy with its own certificate: `--secret id=pip.conf,src=...`, `--secret id=ca.crt,src=...`
# with `cert = /run/secrets/ca.crt` in that pip.conf. Only these steps see the two files.
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.crt \
    python3 -m venv /opt/builder \
 && /opt/builder/bin/pip install --only-binary=:all: --require-hashes -r requirements-build.lock \
 && /opt/builder/bin/pip wheel --require-hashes --no-deps --no-build-isolation --wheel-dir dist -r ${LOCK}
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN /opt/builder/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
 && python3 -m venv --without-pip /opt/imgproxy \
 && /opt/builder/bin/pip --python /opt/imgproxy/bin/python install --no-index --no-deps dist/*.whl

# --- the image ---------------------------------------------------------------------------------------------------
FROM python
# The text of SVG files needs fonts. Liberation has the measures of Arial, Times New Roman and Courier New, Carlito those of
# Calibri, Caladea those of Cambria. DejaVu has the letters that they lack: Greek, Cyrillic, Hebrew, Arabic, Armenian,
# Georgian, and signs. Together 9 MB. fontconfig-config says which font stands for which. For other scripts:
# --build-arg FONTS="fonts-liberation fonts-dejavu-core fonts-noto-core fonts-noto-cjk" (130 MB).
ARG FONTS="fonts-liberation fonts-dejavu-core fonts-crosextra-carlito fonts-crosextra-caladea"
RUN apt-get update \
 && apt-get install --yes --no-install-recommends fontconfig-config ${FONTS} \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/cache/ldconfig /var/log/apt /var/log/dpkg.log
RUN groupadd --system --gid 10001 imgproxy \
 && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /var/cache/imgproxy \
      --shell /usr/sbin/nologin imgproxy \
 && install --directory --owner=imgproxy --group=imgproxy --mode=0750 /var/cache/imgproxy \
 && rm -f /var/log/lastlog /var/log/faillog
COPY --from=build /opt/imgproxy /opt/imgproxy
COPY deploy/healthcheck.py /opt/imgproxy/healthcheck.py

# jemalloc returns freed pages to the system after dirty_decay_ms, in a thread of its own, so also while there are no
# requests. With glibc's allocator, render processes return memory when they are idle. The proof prints both. 24 MP
# rendered 40 times on 2 cores took 207 MB in all processes, and 115 MB afterwards; with glibc (LD_PRELOAD=) 165 and 110.
# The loader finds the name without a path on every architecture.
ENV LD_PRELOAD=libjemalloc.so.2 \
    MALLOC_CONF=background_thread:true,dirty_decay_ms:5000,muzzy_decay_ms:0 \
    PATH=/opt/imgproxy/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TMPDIR=/var/cache/imgproxy \
    IMGPROXY_SERVER__HOST=0.0.0.0 \
    IMGPROXY_CACHE__DIR=/var/cache/imgproxy

# A number, so that Kubernetes can check `runAsNonRoot`.
USER 10001:10001
WORKDIR /var/cache/imgproxy
VOLUME /var/cache/imgproxy
EXPOSE 8080
STOPSIGNAL SIGTERM
# Checks only that the service is alive: a container must not be restarted because the origin is down. See /-/ready.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
  CMD ["/opt/imgproxy/bin/python", "-I", "/opt/imgproxy/healthcheck.py"]
ENTRYPOINT ["imgproxy"]
CMD ["serve"]

# A sidecar beside generals that serve HTTP, in the same pod. Generals that are commands need an image with their command in it:
# copy /usr/bin/mindos-sidecar out of this one.
#
#   docker buildx build -f deploy/images/mindos-sidecar.Dockerfile --platform linux/amd64,linux/arm64 \
#       --build-arg SOURCE_DATE_EPOCH="$(git log -1 --format=%ct)" -t mindos-sidecar .
#
# Both stages are of the platform that is asked for, so nothing here names one. BUILDER is any Debian with Rust, a C compiler and
# ca-certificates; give it by digest where images are published.
ARG BUILDER=docker.io/library/rust:1.95.0-bookworm

FROM ${BUILDER} AS build
ARG SOURCE_DATE_EPOCH=0
WORKDIR /mindos
COPY . .
RUN deploy/build.sh --out /shipped mindos-sidecar \
    && deploy/images/rootfs.sh /shipped/mindos-sidecar /rootfs

FROM scratch
COPY --from=build /rootfs/ /
USER 65532:65532
ENV MINDOS_LOG_FORMAT=json
# For its key and certificate (`--identity-dir /data/identity`), so that a restart of the container needs no token; a volume in memory will do.
VOLUME /data
WORKDIR /data
# With MINDOS_READY_LISTEN it answers GET /ready to probes; nothing in here could ask.
HEALTHCHECK NONE
ENTRYPOINT ["/usr/bin/mindos-sidecar"]

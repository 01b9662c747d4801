# The agent of a cluster: finds its generals, carries its objects and Jobs, and dials out. Two of them share the work by a Lease.
#
#   docker buildx build -f deploy/images/mindos-cluster-agent.Dockerfile --platform linux/amd64,linux/arm64 \
#       --build-arg SOURCE_DATE_EPOCH="$(git log -1 --format=%ct)" -t mindos-cluster-agent .
#
# Both stages are of the platform that is asked for, so nothing here names one. BUILDER is any Debian with Rust, a C compiler and
# ca-certificates; give it by digest where images are published.
ARG BUILDER=docker.io/library/rust:1.95.0-bookworm

FROM ${BUILDER} AS build
ARG SOURCE_DATE_EPOCH=0
WORKDIR /mindos
COPY . .
RUN deploy/build.sh --out /shipped mindos-cluster-agent \
    && deploy/images/rootfs.sh /shipped/mindos-cluster-agent /rootfs

FROM scratch
COPY --from=build /rootfs/ /
USER 65532:65532
ENV MINDOS_LOG_FORMAT=json MINDOS_LISTEN=0.0.0.0:8093
# Healthy, ready and metrics.
EXPOSE 8093
# For its key and certificate (`--identity-dir /data/identity`); a volume in memory will do.
VOLUME /data
WORKDIR /data
# It answers GET /healthz and /readyz to probes; nothing in here could ask.
HEALTHCHECK NONE
ENTRYPOINT ["/usr/bin/mindos-cluster-agent"]

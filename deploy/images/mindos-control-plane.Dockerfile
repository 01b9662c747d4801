# The control plane: the API on 8090, agents on 8091, all it keeps under /data. Its root may be read-only.
#
#   docker buildx build -f deploy/images/mindos-control-plane.Dockerfile --platform linux/amd64,linux/arm64 \
#       --build-arg SOURCE_DATE_EPOCH="$(git log -1 --format=%ct)" -t mindos-control-plane .
#
# Both stages are of the platform that is asked for, so nothing here names one. BUILDER is any Debian with Rust, a C compiler and
# ca-certificates; give it by digest where images are published.
ARG BUILDER=docker.io/library/rust:1.95.0-bookworm

FROM ${BUILDER} AS build
ARG SOURCE_DATE_EPOCH=0
WORKDIR /mindos
COPY . .
RUN deploy/build.sh --out /shipped mindos-control-plane \
    && deploy/images/rootfs.sh /shipped/mindos-control-plane /rootfs

FROM scratch
COPY --from=build /rootfs/ /
USER 65532:65532
# Beyond loopback everything is TLS, and everybody is asked who they are. Secrets come as files or variables at run time.
ENV MINDOS_DATA_DIR=/data MINDOS_LISTEN=0.0.0.0:8090 MINDOS_AGENT_LISTEN=0.0.0.0:8091 MINDOS_LOG_FORMAT=json
EXPOSE 8090 8091
VOLUME /data
WORKDIR /data
# There is no shell or HTTP client in here to ask with: probe GET /healthz and /readyz of 8090 from outside.
HEALTHCHECK NONE
ENTRYPOINT ["/usr/bin/mindos-control-plane"]

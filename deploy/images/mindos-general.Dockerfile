# A built-in general, which serves POST /process and GET /ready. With git, since generals look at repositories; what the coding agent runs
# of a repository needs an image with its tools: copy /usr/bin/mindos-general out of this one.
#
#   docker buildx build -f deploy/images/mindos-general.Dockerfile --platform linux/amd64,linux/arm64 \
#       --build-arg SOURCE_DATE_EPOCH="$(git log -1 --format=%ct)" -t mindos-general .
#
# Both stages are of the platform that is asked for, so nothing here names one. BUILDER is any Debian with Rust, a C compiler, git and
# ca-certificates; give it by digest where images are published.
ARG BUILDER=docker.io/library/rust:1.95.0-bookworm

FROM ${BUILDER} AS build
ARG SOURCE_DATE_EPOCH=0
WORKDIR /mindos
COPY . .
RUN deploy/build.sh --out /shipped mindos-general \
    && deploy/images/rootfs.sh --with-git /shipped/mindos-general /rootfs

FROM scratch
COPY --from=build /rootfs/ /
USER 65532:65532
# Within a pod the sidecar calls it; where others do, give the address that they call.
ENV MINDOS_LOG_FORMAT=json MINDOS_GENERAL_LISTEN=127.0.0.1:8080 HOME=/data GIT_CONFIG_NOSYSTEM=1
EXPOSE 8080
# Clones, which may be large.
VOLUME /data
WORKDIR /data
# It answers GET /health and /ready to probes; nothing in here could ask.
HEALTHCHECK NONE
ENTRYPOINT ["/usr/bin/mindos-general"]

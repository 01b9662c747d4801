# The one command, for people: a control plane, sidecars, the built-in generals, and everything that looks at them.
#
#   docker buildx build -f deploy/images/mindos.Dockerfile --platform linux/amd64,linux/arm64 \
#       --build-arg SOURCE_DATE_EPOCH="$(git log -1 --format=%ct)" -t mindos .
#
# Both stages are of the platform that is asked for, so nothing here names one. BUILDER is any Debian with Rust, a C compiler and
# ca-certificates; give it by digest where images are published.
ARG BUILDER=docker.io/library/rust:1.95.0-bookworm

FROM ${BUILDER} AS build
ARG SOURCE_DATE_EPOCH=0
WORKDIR /mindos
COPY . .
RUN deploy/build.sh --out /shipped mindos \
    && deploy/images/rootfs.sh /shipped/mindos /rootfs

FROM scratch
COPY --from=build /rootfs/ /
USER 65532:65532
ENV HOME=/data
VOLUME /data
WORKDIR /data
# Commands end by themselves.
HEALTHCHECK NONE
ENTRYPOINT ["/usr/bin/mindos"]
CMD ["--help"]

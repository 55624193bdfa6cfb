# syntax-free on purpose: builds with the classic builder as well as with BuildKit.
#
#   docker build -t a8 .                          every role
#   docker build -t a8-proxy --target proxy .     the sidecar image: the proxy alone
#
# Both base images can be replaced, for mirrors and for machines that reach none (.ci/container makes them locally).
ARG RUST_IMAGE=rust:1-bookworm
ARG RUNTIME_IMAGE=debian:bookworm-slim

FROM ${RUST_IMAGE} AS build
# Pingora always needs cmake.
RUN command -v cmake >/dev/null || (apt-get update && apt-get install -y --no-install-recommends cmake)
WORKDIR /src
COPY . .
ARG PROFILE=release
RUN mkdir -p /out/data /out/all /out/proxy \
 && cargo build --locked --profile "${PROFILE}" -p cli \
 && cp target/*/a8 /out/all/a8 \
 && cargo build --locked --profile "${PROFILE}" -p cli --no-default-features --features proxy \
 && cp target/*/a8 /out/proxy/a8

FROM ${RUNTIME_IMAGE} AS proxy
COPY --from=build /out/proxy/a8 /usr/local/bin/a8
COPY --from=build --chown=65532:65532 /out/data /var/lib/a8
USER 65532:65532
WORKDIR /var/lib/a8
EXPOSE 6379
ENTRYPOINT ["/usr/local/bin/a8"]
CMD ["proxy"]

FROM ${RUNTIME_IMAGE} AS all
COPY --from=build /out/all/a8 /usr/local/bin/a8
COPY --from=build --chown=65532:65532 /out/data /var/lib/a8
USER 65532:65532
WORKDIR /var/lib/a8
EXPOSE 8080 8081 6379
ENTRYPOINT ["/usr/local/bin/a8"]
CMD ["help"]

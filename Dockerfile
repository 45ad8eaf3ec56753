# SPDX-License-Identifier: Apache-2.0
#
# An image of one static program: docker build --build-arg PROGRAM=fogprobe -t fogprobe:dev .
# `make image` makes all that a cluster needs, also where no registry can be reached; docs/release.md.
#
# BuildKit and Docker's older builder both take it. The older one does not say for which platform (BUILDPLATFORM, TARGETOS, TARGETARCH),
# so every use of these has a default, and what it runs on is HOST_PLATFORM.
ARG GO_IMAGE=docker.io/library/golang:1.26.8
ARG BASE_IMAGE=gcr.io/distroless/static-debian13:nonroot
ARG HOST_PLATFORM=linux/amd64

FROM --platform=${BUILDPLATFORM:-${HOST_PLATFORM}} ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# All programs are compiled together, so that this layer serves the image of each of them. With GOGC the compiler takes a sixth less time.
ARG PROGRAMS="./cmd/fogsched ./cmd/fogprobe"
ARG VERSION=unknown
ARG COMMIT=unknown
ARG TARGETOS
ARG TARGETARCH
RUN CGO_ENABLED=0 GOOS=${TARGETOS:-linux} GOARCH=${TARGETARCH:-$(go env GOHOSTARCH)} \
    GOGC=400 go build -trimpath -buildvcs=false -ldflags "$(hack/release/ldflags.sh "${VERSION}" "${COMMIT}")" -o /out/ ${PROGRAMS}

# Any base will do, scratch too: the program is static, and the user has a number.
FROM ${BASE_IMAGE}
ARG PROGRAM=fogsched
ARG VERSION=unknown
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="${PROGRAM}" \
      org.opencontainers.image.description="${PROGRAM} of fogsched: Kubernetes scheduling by measured latency" \
      org.opencontainers.image.source="https://github.com/fogsched/fogsched" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"
COPY LICENSE /licenses/LICENSE
COPY --from=build /out/${PROGRAM} /program
USER 65532:65532
ENTRYPOINT ["/program"]

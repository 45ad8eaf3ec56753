# SPDX-License-Identifier: Apache-2.0
#
# One static program in an empty image; `make build` makes the programs.
FROM scratch
ARG PROGRAM
COPY bin/${PROGRAM} /program
USER 65532:65532
ENTRYPOINT ["/program"]

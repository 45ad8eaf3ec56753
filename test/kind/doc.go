// SPDX-License-Identifier: Apache-2.0

// Package kind runs real Kubernetes clusters for end-to-end tests, on kind, also where no container registry can be reached
// and no Docker engine runs.
//
// Where the machine's own Docker engine answers, it is used. Else, on Linux and as root, Debian's dockerd is started in PID,
// network and mount namespaces of its own: its containers, bridges, firewall rules and mounts exist nowhere else, so nothing on
// the machine is disturbed, and all of it ends with one process. A virtual link leads from the machine to its nodes; there is no
// way out from them, so such an engine pulls no images.
package kind

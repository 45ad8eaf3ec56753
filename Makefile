# SPDX-License-Identifier: Apache-2.0

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# The go command uses all cores by itself; two of them side by side would compile the same packages twice.
.NOTPARALLEL:

KUBE_VERSION := v1.35.4
VERSION ?= $(or $(shell GIT_OPTIONAL_LOCKS=0 git describe --tags --always --dirty 2>/dev/null),unknown)
COMMIT := $(or $(shell git rev-parse HEAD 2>/dev/null),unknown)

# One setting for all builds, so that they share what is compiled; the race detector, which needs cgo, is the exception.
export CGO_ENABLED := 0
# The version is set below. Asking git once more fails where the clone belongs to another user.
export GOFLAGS := -buildvcs=false $(GOFLAGS)
# The compiler then collects garbage less often: a sixth less time, for a third more memory. Not for `go test`, whose tests would inherit it.
COMPILE := GOGC=400
GO_BUILD := $(COMPILE) go build
# Where the demo and the integration tests find the programs.
export FOGSCHED_BIN := $(CURDIR)/bin

# Tests run in their own folder, so a relative path must not reach them as it was given.
ifneq ($(RTT_MEASURED),)
override RTT_MEASURED := $(abspath $(RTT_MEASURED))
export RTT_MEASURED
endif
ifneq ($(RTT_TRUE),)
override RTT_TRUE := $(abspath $(RTT_TRUE))
export RTT_TRUE
endif

kube_version = -X k8s.io/component-base/version.gitVersion=$(1) \
	-X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=35 \
	-X k8s.io/client-go/pkg/version.gitVersion=$(1)
KUBE_LDFLAGS := -s -w $(call kube_version,$(KUBE_VERSION))
LDFLAGS := $(shell hack/release/ldflags.sh '$(VERSION)' '$(COMMIT)')

CONTROL_PLANE := bin/etcd bin/kube-apiserver bin/kube-controller-manager bin/kube-scheduler bin/kwok
PROMETHEUS_PROGRAMS := bin/prometheus bin/promtool bin/node_exporter bin/blackbox_exporter bin/smokeping_prober
RACE = $(if $(shell command -v "$$(go env CC)"),-race)

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ What people use

.PHONY: demo
demo: tools build $(if $(filter prometheus,$(SOURCE)),bin/prometheus) ## bulletin board and Redis placed by measured latency, beside the stock scheduler (SOURCE=prometheus; KEEP=1: stay up afterwards)
	@$(GO_BUILD) -o bin/demo ./test/demo
	@exec bin/demo -out out/demo $(if $(SOURCE),-source '$(SOURCE)') $(if $(filter-out 0 false no,$(KEEP)),-keep)

.PHONY: test
test: test-unit test-integration ## unit tests with the race detector, and integration tests on a real API server

.PHONY: verify
verify: bin/gofumpt bin/golangci-lint bin/controller-gen ## formatting, linters, generated code, go.mod; changes nothing
	@hack/verify-all.sh

# -p 1: nothing is compiled beside what is measured.
.PHONY: bench
bench: bin/benchstat ## the short set of benchmarks beside the recorded figures (BENCH=regexp, COUNT=runs)
	@mkdir -p out/bench
	go test -p 1 -run '^$$' -bench '$(or $(BENCH),$(BENCH_SHORT))' -benchmem -benchtime 50ms -count $(or $(COUNT),6) $(BENCH_PACKAGES) | tee out/bench/now.txt
	@echo
	@bin/benchstat -ignore cpu $(if $(wildcard hack/bench/recorded.txt),recorded=hack/bench/recorded.txt) now=out/bench/now.txt
	@awk -F ': ' '/^cpu:/ && !seen[$$2]++ { n++; all = all (n > 1 ? ", now on " : "") $$2 } \
		END { if (n > 1) print "\nTimes were recorded on " all ": they differ by the processors, too. Allocations do not." }' \
		$(wildcard hack/bench/recorded.txt) out/bench/now.txt
# One size of what has many, and all that has one.
BENCH_SHORT := PastFull|Sizes/nodes=5000$$/targets=10$$|NoIntent|BenchmarkScore|BenchmarkFilter|BenchmarkPreFilter|BenchmarkPreScore|Rank/nodes=5000$$/targets=10$$|Row|SnapshotBuild|Costs|Reserve|BenchmarkBuild/nodes=5000$$|Take
BENCH_PACKAGES := ./pkg/latency ./pkg/placement ./pkg/plugins/... ./pkg/store

.PHONY: bench-full
bench-full: bin/benchstat ## every benchmark at every size (about 1 min once compiled; COUNT=runs, each of which takes as long)
	@mkdir -p out/bench
	go test -p 1 -run '^$$' -bench . -benchmem -benchtime 100ms -count $(or $(COUNT),1) -timeout 2h ./pkg/... | tee out/bench/full.txt
	@bin/benchstat out/bench/full.txt

.PHONY: bench-record
bench-record: ## make what `make bench` measured last the recorded figures
	@mkdir -p hack/bench
	cp out/bench/now.txt hack/bench/recorded.txt

.PHONY: quality
quality: ## how near to the best the placements are (RTT_MEASURED=file RTT_TRUE=file RTT_UNIT=ms|s)
	go test ./test/quality -run TestQuality -v -count=1 -timeout 30m

.PHONY: fuzz
fuzz: ## fuzz what takes other machines' words (FUZZTIME=60s for each target)
	@hack/fuzz.sh ./pkg/probe FuzzSTAMPPacket $(or $(FUZZTIME),60s)
	@hack/fuzz.sh ./pkg/probe FuzzSTAMPSender $(or $(FUZZTIME),60s)
	@hack/fuzz.sh ./pkg/probe FuzzSTAMPReflector $(or $(FUZZTIME),60s)
	@hack/fuzz.sh ./pkg/probe FuzzSTAMPTLVs $(or $(FUZZTIME),60s)
	@hack/fuzz.sh ./pkg/probe FuzzSTAMPInfo $(or $(FUZZTIME),60s)
	@hack/fuzz.sh ./pkg/source/nodelatency FuzzIngest $(or $(FUZZTIME),60s)
	@hack/fuzz.sh ./pkg/source/prometheus FuzzAnswer $(or $(FUZZTIME),60s)

.PHONY: build
build: ## bin/fogsched and bin/fogprobe
	@echo "building fogsched and fogprobe (the first time about 30 s) …"
	@$(GO_BUILD) -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

.PHONY: tools
tools: $(CONTROL_PLANE) ## the control plane for demo and tests, built into bin/ once

# Packages without tests are left out: the race detector would compile all of Kubernetes once more for cmd/fogsched.
.PHONY: test-unit
test-unit: ## unit tests with the race detector (without it where there is no C compiler)
	@echo "compiling the unit tests (the first time about 2 min) …"
	$(if $(RACE),CGO_ENABLED=1) go test $(RACE) -timeout 15m $(UNIT)
UNIT = $$(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./pkg/... ./cmd/... ./internal/...)

# The vet compiles on all cores; the tests then run one package at a time, because some of them measure time.
.PHONY: test-integration
test-integration: tools build bin/helm bin/kubectl bin/kind $(PROMETHEUS_PROGRAMS) bin/monitoring-crds.yaml ## integration tests on a real API server
	@echo "compiling the integration tests (the first time about 2 min) …"
	@$(COMPILE) go vet $(INTEGRATION)
	go test -vet=off -p 1 -count=1 -timeout 20m $(INTEGRATION)
INTEGRATION = $$(go list ./test/... | grep -v /test/quality)

.PHONY: update
update: bin/gofumpt bin/golangci-lint bin/controller-gen ## mend what verify complains about, where that can be done
	@for script in hack/update-*.sh; do echo "== $$script"; "$$script"; done

.PHONY: clean
clean: ## remove what was built
	rm -rf bin out

# The programs of hack/tools are built when they are missing or their module changed. Each says how long it takes on two
# cores with an empty cache, because the first of them make people wonder.
cluster_module := hack/tools/cluster/go.mod hack/tools/cluster/go.sum
kwok_module := hack/tools/kwok/go.mod hack/tools/kwok/go.sum
lint_module := hack/tools/lint/go.mod hack/tools/lint/go.sum
bench_module := hack/tools/bench/go.mod hack/tools/bench/go.sum
codegen_module := hack/tools/codegen/go.mod hack/tools/codegen/go.sum
prometheus_module := hack/tools/prometheus/go.mod hack/tools/prometheus/go.sum
monitoring_module := hack/tools/monitoring/go.mod hack/tools/monitoring/go.sum
helm_module := hack/tools/helm/go.mod hack/tools/helm/go.sum

# $(1) module folder, $(2) package, $(3) time, $(4) linker flags, $(5) build tags
define build_tool
	@echo "building $(@F) (once, about $(3)) …"
	@cd hack/tools/$(1) && $(GO_BUILD) -tags '$(5)' -ldflags '$(or $(4),-s -w)' -o '$(CURDIR)/$@' $(2)
	@touch $@
endef

bin/etcd: $(cluster_module)
	$(call build_tool,cluster,go.etcd.io/etcd/server/v3,1 min)

bin/kube-apiserver: $(cluster_module)
	$(call build_tool,cluster,k8s.io/kubernetes/cmd/kube-apiserver,4 min,$(KUBE_LDFLAGS))

bin/kube-controller-manager: $(cluster_module)
	$(call build_tool,cluster,k8s.io/kubernetes/cmd/kube-controller-manager,1 min,$(KUBE_LDFLAGS))

bin/kube-scheduler: $(cluster_module)
	$(call build_tool,cluster,k8s.io/kubernetes/cmd/kube-scheduler,10 s,$(KUBE_LDFLAGS))

bin/kwok: $(kwok_module)
	$(call build_tool,kwok,sigs.k8s.io/kwok/cmd/kwok,2 min)

bin/golangci-lint: $(lint_module)
	$(call build_tool,lint,github.com/golangci/golangci-lint/v2/cmd/golangci-lint,2 min)

bin/benchstat: $(bench_module)
	$(call build_tool,bench,golang.org/x/perf/cmd/benchstat,5 s)

bin/controller-gen: $(codegen_module)
	$(call build_tool,codegen,sigs.k8s.io/controller-tools/cmd/controller-gen,30 s)

bin/gofumpt: $(codegen_module)
	$(call build_tool,codegen,mvdan.cc/gofumpt,10 s)

bin/helm: $(helm_module)
	$(call build_tool,helm,helm.sh/helm/v4/cmd/helm,3 min,-s -w -X helm.sh/helm/v4/internal/version.version='"$$(go list -m -f '{{.Version}}' helm.sh/helm/v4)"')

# Prometheus without its discovery of targets in clouds and clusters, with which it would take twice as long to build; targets
# come from the configuration, from files or by HTTP. Its pages are not in the module, so it has no user interface.
bin/prometheus: $(prometheus_module)
	$(call build_tool,prometheus,github.com/prometheus/prometheus/cmd/prometheus,2 min,,remove_all_sd)

bin/promtool: $(prometheus_module)
	$(call build_tool,prometheus,github.com/prometheus/prometheus/cmd/promtool,40 s,,remove_all_sd)

bin/node_exporter: $(prometheus_module)
	$(call build_tool,prometheus,github.com/prometheus/node_exporter,10 s)

bin/blackbox_exporter: $(prometheus_module)
	$(call build_tool,prometheus,github.com/prometheus/blackbox_exporter,15 s)

# The kinds of the Prometheus Operator that the component monitoring has, for its tests.
bin/monitoring-crds.yaml: $(monitoring_module)
	@cd hack/tools/monitoring && go mod download github.com/prometheus-operator/prometheus-operator && \
		cat "$$(go list -m -f '{{.Dir}}' github.com/prometheus-operator/prometheus-operator)"/example/prometheus-operator-crd/monitoring.coreos.com_{podmonitors,prometheusrules,servicemonitors}.yaml >'$(CURDIR)/$@'

bin/smokeping_prober: hack/smokeping-prober.sh
	@echo "fetching $(@F) (once, some seconds) …"
	@hack/smokeping-prober.sh $@

##@ A real cluster on kind

# The cluster of the end-to-end tests. Where no registry can be reached, hack/kind builds its node image first.
KIND_PROGRAMS := bin/kind bin/kubectl

.PHONY: e2e-cluster
e2e-cluster: $(KIND_PROGRAMS) ## a kind cluster (WORKERS=n, default 5; KIND_NODE_IMAGE=image) that stays; prints its KUBECONFIG
	@$(GO_BUILD) -o bin/e2e-cluster ./test/kind/cmd
	@exec bin/e2e-cluster -workers $(or $(WORKERS),5) create

.PHONY: e2e-cluster-delete
e2e-cluster-delete: $(KIND_PROGRAMS) ## remove it, with all that came with it
	@$(GO_BUILD) -o bin/e2e-cluster ./test/kind/cmd
	@exec bin/e2e-cluster delete

kind_module := hack/tools/kind/go.mod hack/tools/kind/go.sum

bin/kubelet bin/kubeadm bin/kube-proxy bin/kubectl &: $(cluster_module)
	@echo "building kubelet, kubeadm, kube-proxy, kubectl (once, about 3 min) …"
	@cd hack/tools/cluster && $(GO_BUILD) -ldflags '$(KUBE_LDFLAGS)' -o '$(CURDIR)/bin/' \
		k8s.io/kubernetes/cmd/{kubelet,kubeadm,kube-proxy,kubectl}
	@touch bin/{kubelet,kubeadm,kube-proxy,kubectl}

bin/kind: $(kind_module)
	$(call build_tool,kind,sigs.k8s.io/kind,10 s)

bin/containerd bin/containerd-shim-runc-v2 bin/ctr &: $(kind_module)
	@echo "building containerd, its shim, ctr (once, about 90 s) …"
	@cd hack/tools/kind && $(GO_BUILD) -tags 'no_btrfs no_devmapper no_zfs' -o '$(CURDIR)/bin/' \
		-ldflags "-s -w -X github.com/containerd/containerd/v2/version.Version=$$(go list -m -f '{{.Version}}' github.com/containerd/containerd/v2)" \
		github.com/containerd/containerd/v2/cmd/{containerd,containerd-shim-runc-v2,ctr}
	@touch bin/containerd bin/containerd-shim-runc-v2 bin/ctr

bin/coredns: $(kind_module) $(wildcard hack/tools/kind/coredns/*.go)
	$(call build_tool,kind,./coredns,2 min)

bin/host-local bin/loopback bin/portmap bin/ptp &: $(kind_module)
	@echo "building the CNI plugins (once, about 10 s) …"
	@cd hack/tools/kind && $(GO_BUILD) -ldflags '-s -w' -o '$(CURDIR)/bin/' \
		github.com/containernetworking/plugins/plugins/{ipam/host-local,main/loopback,main/ptp,meta/portmap}
	@touch bin/{host-local,loopback,portmap,ptp}

##@ Images and releases

sbom_module := hack/tools/sbom/go.mod hack/tools/sbom/go.sum
krew_module := hack/tools/krew/go.mod hack/tools/krew/go.sum

bin/cyclonedx-gomod: $(sbom_module)
	$(call build_tool,sbom,github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod,20 s)

bin/krew: $(krew_module)
	$(call build_tool,krew,sigs.k8s.io/krew/cmd/krew,15 s)

bin/validate-krew-manifest: $(krew_module)
	$(call build_tool,krew,sigs.k8s.io/krew/cmd/validate-krew-manifest,10 s)

.PHONY: image
image: bin/cyclonedx-gomod ## images fogsched:dev and fogprobe:dev, in Docker and as archives in out/image (PLATFORMS=list IMAGE_PREFIX= IMAGE_TAG= GO_IMAGE= BASE_IMAGE=): docs/release.md
	@$(GO_BUILD) -o bin/image ./hack/image
	@exec bin/image -sbom-tool bin/cyclonedx-gomod -version '$(VERSION)' -commit '$(COMMIT)' $(if $(IMAGE_TAG),-tag '$(IMAGE_TAG)') $(if $(IMAGE_PREFIX),-prefix '$(IMAGE_PREFIX)') \
		$(if $(PLATFORMS),-platforms '$(PLATFORMS)') $(if $(GO_IMAGE),-go-image '$(GO_IMAGE)') $(if $(BASE_IMAGE),-base-image '$(BASE_IMAGE)')

.PHONY: test-image
test-image: bin/cyclonedx-gomod bin/helm ## what the Dockerfile makes of the programs, for amd64 and arm64, by both of Docker's builders; leaves out/image
	@$(GO_BUILD) -o bin/ ./hack/image ./hack/release
	VERSION='$(VERSION)' COMMIT='$(COMMIT)' go test -tags image -count=1 -timeout 60m -v ./test/image

# ALLOW_DIRTY=1 makes one of a tree with work in it, to try out.
.PHONY: release
release: bin/cyclonedx-gomod bin/helm ## the files of a release in out/release (VERSION=v0.1.0 BASE_URL= IMAGE_PREFIX= PROGRAMS= PLATFORMS=): docs/release.md
	@$(GO_BUILD) -o bin/release ./hack/release
	@exec bin/release -version '$(if $(filter-out file,$(origin VERSION)),$(VERSION))' -commit '$(COMMIT)' -epoch '$(or $(SOURCE_DATE_EPOCH),$(shell git log -1 --format=%ct),0)' \
		$(if $(BASE_URL),-base-url '$(BASE_URL)') $(if $(IMAGE_PREFIX),-image-prefix '$(IMAGE_PREFIX)') $(if $(PLATFORMS),-platforms '$(PLATFORMS)') \
		$(if $(filter-out 0 false no,$(ALLOW_DIRTY)),-allow-dirty) $(PROGRAMS)

.PHONY: test-release
test-release: tools bin/cyclonedx-gomod bin/helm bin/kubectl bin/krew bin/validate-krew-manifest ## what a release has in it, that it is reproducible, and that kubectl, krew and helm take it
	@$(GO_BUILD) -o bin/release ./hack/release
	go test -tags release -count=1 -timeout 20m -v ./test/release

# The images of the end-to-end tests: made when there are none, or when a program's source changed since.
out/image/fogsched.tar out/image/fogprobe.tar &: Dockerfile .dockerignore go.mod go.sum hack/release/ldflags.sh \
		$(shell find cmd/fogsched cmd/fogprobe pkg -name '*.go' ! -name '*_test.go')
	@$(MAKE) --no-print-directory image PLATFORMS= IMAGE_PREFIX= IMAGE_TAG=

##@ End-to-end tests

.PHONY: e2e-programs
e2e-programs:
	@echo "building the suite (the first time about 1 min) …"
	@$(GO_BUILD) -ldflags '-s -w' -o bin/ ./test/e2e/workload/bulletinboard ./test/e2e/workload/boardclient ./test/wan/cmd/wanctl
	@$(GO_BUILD) -ldflags '-s -w' -o bin/e2e ./test/e2e/run
	@go test -c -tags e2e -ldflags '-s -w' -o bin/e2e.test ./test/e2e

# A KUBECONFIG of the environment is not asked for: nobody's cluster should be tested in by accident.
.PHONY: e2e
ifeq ($(origin KUBECONFIG),command line)
e2e: e2e-programs ## end-to-end tests of the images on a kind cluster (KEEP=1, RUN=test, FROM=binaries: of bin/), or on any (KUBECONFIG=file IMAGES=prefix): docs/e2e.md
	@cd test/e2e && KUBECONFIG='$(abspath $(KUBECONFIG))' FOGSCHED_E2E_IMAGES='$(IMAGES)' FOGSCHED_E2E_OUT='$(CURDIR)/out/e2e' \
		exec ../../bin/e2e.test -test.v -test.timeout 30m $(if $(RUN),-test.run '$(RUN)')
else
e2e: $(if $(filter binaries,$(FROM)),build,out/image/fogsched.tar out/image/fogprobe.tar) e2e-programs $(KIND_PROGRAMS)
	@exec bin/e2e -out out/e2e $(if $(filter binaries,$(FROM)),,-images out/image) $(if $(filter-out 0 false no,$(KEEP)),-keep) $(if $(WORKERS),-workers $(WORKERS)) $(if $(RUN),-run '$(RUN)')
endif

.PHONY: e2e-down
e2e-down: e2e-programs $(KIND_PROGRAMS) ## end what `make e2e KEEP=1` left running
	@exec bin/e2e -out out/e2e -down

##@ Scale

.PHONY: scale
scale: tools build ## what thousands of probers cost API server, scheduler and node (MINUTES=n simulated, 30 by default; FULL=1: 15,000 nodes as well)
	@echo "compiling the scale tests …"
	FULL=$(FULL) MINUTES='$(MINUTES)' go test -tags scale -count=1 -parallel 8 -timeout 60m -v ./test/scale

##@ Load

.PHONY: load
load: tools build bin/prometheus bin/promtool ## where a burst lands on nodes whose load differs: NodeMetrics, Trimaran, the stock scheduler
	@echo "compiling the load test …"
	go test -tags load -count=1 -timeout 10m -v ./test/load

##@ A Prometheus that fails

.PHONY: chaos
chaos: tools build bin/prometheus ## scheduling while Prometheus fails in every way, with Trimaran beside it on the same faults (about 6 min)
	@echo "compiling the tests (the first time about 1 min) …"
	go test -tags chaos -count=1 -timeout 30m -v ./test/chaos

##@ Throughput

# Each run is a process of its own with an API server in it; etcd is found through FOGSCHED_BIN. On two cores that nobody else uses: 500 and 5,000
# nodes about 1 h on a fast machine, NODES=5000 half of it (44 min on a slow one), FULL=1 about 4 h. The test of what a new snapshot delays is without the race detector, so `make test` may lack it.
.PHONY: perf
perf: bin/etcd ## what placement by latency costs the scheduler, beside the stock profile and its peers (RUNS=n NODES=n PODS=n CASES="a b", FULL=1, PARALLELISM=n; about 1 h): test/perf/README.md
	go test -count=1 -v -run TestSnapshotDelaysNoCycle ./pkg/plugins/nodelatency
	@echo "compiling the tests (the first time about 3 min) …"
	RUNS='$(RUNS)' NODES='$(NODES)' PODS='$(PODS)' CASES='$(CASES)' FULL='$(FULL)' PROFILE='$(PROFILE)' PARALLELISM='$(PARALLELISM)' \
		go test -tags perf -vet=off -count=1 -timeout 6h -v -run '^Test' ./test/perf

# The program is run by itself and not by `go test`, which would keep the progress bar from the terminal.
.PHONY: c2m
c2m: ## 2,000,000 pods on 6,100 nodes, without an API server (PODS=100000: some minutes; CONFIG=manifests/base/config.yaml NODES=n MINUTES=n)
	@echo "compiling the challenge of two million (the first time about 2 min) …"
	@go test -c -tags c2m -o bin/c2m.test ./test/c2m
	@cd test/c2m && PODS='$(PODS)' NODES='$(NODES)' CONFIG='$(CONFIG)' MINUTES='$(MINUTES)' exec ../../bin/c2m.test -test.v -test.timeout 0

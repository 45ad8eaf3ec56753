// SPDX-License-Identifier: Apache-2.0

// Command fogprobe measures the round-trip times from the node that it runs on to the others, and publishes them.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/fogsched/fogsched/pkg/probe"
	"github.com/fogsched/fogsched/pkg/publish"
)

const usage = `fogprobe measures the round-trip times (RTTs) from this node to others with STAMP probes (RFC 8762, UDP), answers
the probes of others, and publishes median, 95th percentile and loss as the NodeLatency object of this node, which
the scheduler reads. Up to 33 nodes all pairs are measured; of more, each node measures 16 others and those that
policies are about, and network coordinates estimate the rest.

  In a DaemonSet, with NODE_NAME, POD_IP and POD_NAMESPACE set: fogprobe
  Without a Service, peers from the NodeLatency objects:        fogprobe --node-name=edge-01 --peers=nodelatencies
  Without a cluster, peers from a list:                         fogprobe --node-name=edge-01 --peers=peers.txt --kubeconfig=none

A probe without an answer counts as lost; it never counts as a latency. All probes of a node together are 0.3 a second.

Flags:
`

// defaultPairMetrics is that of a full mesh of 50 nodes.
const defaultPairMetrics = 2500

// version is set by the linker.
var version = "unknown"

type flags struct {
	publish.Options
	bind, service, interest, kubeconfig, http, logLevel, logFormat string
}

func main() {
	if os.Getenv("GOGC") == "" {
		// It makes little garbage, and runs on every node: memory is what it costs. By default a third of it would be garbage.
		debug.SetGCPercent(30)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "fogprobe:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	f, err := parse(args, getenv, stdout)
	if errors.Is(err, pflag.ErrHelp) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w (--help explains)", err)
	}
	if f.Logger, err = newLogger(stderr, f.logLevel, f.logFormat); err != nil {
		return err
	}
	klog.SetSlogLogger(f.Logger) // that of the Kubernetes libraries
	if f.Config, err = restConfig(f.kubeconfig); err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	f.Registerer, f.Gatherer = registry, registry

	agent, err := publish.New(f.Options)
	if err != nil {
		return err
	}
	told := ctx // ends when somebody wants us to
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if f.http != "" {
		listener, err := net.Listen("tcp", f.http)
		if err != nil {
			return fmt.Errorf("listening for HTTP: %w", err)
		}
		server := &http.Server{Handler: agent.Handler(), ReadHeaderTimeout: 5 * time.Second}
		go func() {
			if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				cancel(fmt.Errorf("serving HTTP: %w", err))
			}
		}()
		defer server.Close()
	}
	f.Logger.Info("Probing", "node", f.NodeName, "listen", f.Listen, "endpoint", agent.Endpoint().String(), "peers", f.Peers, "http", f.http)
	if err := agent.Run(ctx); err != nil {
		return err
	}
	if told.Err() != nil {
		return nil
	}
	return context.Cause(ctx)
}

// parse reads the command line. With --help or --version it prints that and returns pflag.ErrHelp.
func parse(args []string, getenv func(string) string, stdout io.Writer) (*flags, error) {
	f := &flags{}
	set := pflag.NewFlagSet("fogprobe", pflag.ContinueOnError)
	set.SortFlags = false
	set.SetOutput(io.Discard)
	set.StringVar(&f.NodeName, "node-name", getenv("NODE_NAME"), "`name` of this node, as in kubectl get nodes; default: $NODE_NAME")
	set.StringVar(&f.Listen, "listen", ":8620", "UDP `address` at which probes of others are answered")
	set.StringVar(&f.bind, "bind-address", "", "source `IP` address of the probes; default: that of --listen, or what the routing table chooses")
	set.StringVar(&f.Endpoint, "endpoint", "", "IP:port `address` at which others reach --listen; default: the IP of --listen, $POD_IP, $HOST_IP, --bind-address or this machine's first IP, and the port of --listen")
	namespace := getenv("POD_NAMESPACE")
	if namespace == "" {
		namespace = "fogsched-system"
	}
	set.StringVar(&f.Peers, "peers", publish.PeersEndpointSlices, "whom to probe: \"endpointslices\" (those of --service), \"nodelatencies\" (the endpoints in NodeLatency objects; each prober then receives every report), \"nodes\" (internal IPs of Nodes, with --port), or a `FILE` with a line \"name IP:port\" each, read again when it changes")
	set.StringVar(&f.service, "service", namespace+"/fogprobe", "`NAMESPACE/NAME` of the headless Service of all probers; its default namespace is $POD_NAMESPACE")
	set.StringVar(&f.interest, "interest", namespace+"/fogprobe-interest", "`NAMESPACE/NAME` of the ConfigMap in which the scheduler lists the nodes that policies are about, which every prober measures; \"\" for none")
	set.IntVar(&f.Neighbors, "neighbors", probe.DefaultNeighbors, "`number` of peers to measure, those of --interest apart: some near, some far, some in turn")
	set.Float64Var(&f.Rate, "rate", probe.DefaultRate, "probes a second to all peers together; the interval follows from it, and is at least 10s")
	set.DurationVar(&f.Interval, "interval", 0, "time between two probes of one peer, whatever --rate is; 0 leaves it to --rate")
	set.DurationVar(&f.Timeout, "timeout", 0, "time after which a probe is lost, at most --interval; default: 2s or --interval, whichever is less")
	set.IntVar(&f.Window, "window", probe.DefaultWindow, "number of last probes of a peer of which median, 95th percentile and loss are taken")
	set.StringVar(&f.Protocol, "protocol", publish.ProtocolSTAMP, "how to probe: \"stamp\" (UDP, between fogprobes), \"tcp\" (a connection), \"http\", \"https\" (a GET), or \"icmp\" (an echo, which needs the sysctl net.ipv4.ping_group_range). Only stamp feeds coordinates")
	set.Uint16Var(&f.ProberOptions.Port, "port", 0, "`port` of the peers, where it is not that of their endpoint: of the reflectors with --peers=nodes; with --protocol=tcp, http and https that of --http-address by default")
	set.StringVar(&f.ProberOptions.Path, "http-path", "/healthz", "`path` of the GET of --protocol=http and https")
	set.StringVar(&f.ProberOptions.CAFile, "ca-file", "", "`file` with the certificates that the peers' are signed by, with --protocol=https; default: the machine's")
	set.StringVar(&f.KeyFile, "stamp-key-file", "", "`file` with the key of authenticated STAMP (HMAC-SHA-256), 16 octets or more, the same for all probers; read again when it changes; default: unauthenticated")
	set.DurationVar(&f.MinGap, "publish-min-gap", 0, "least time between two writes of the NodeLatency object, however much changed; 0: 2s, and longer above 200 nodes")
	set.DurationVar(&f.MaxAge, "publish-max-age", 0, "most time between two writes, however little changed; 0: 1m, and longer above 360 nodes, at most 30m")
	set.IntVar(&f.PairMetrics, "pair-metrics", defaultPairMetrics, "most pairs of the whole cluster for which each pair is a metric; 0 for none")
	set.StringVar(&f.kubeconfig, "kubeconfig", getenv("KUBECONFIG"), "`file` that says how to reach the API server; default: $KUBECONFIG or, in a pod, the service account; \"none\": no API server, nothing is published, --peers is a file")
	set.StringVar(&f.http, "http-address", ":8621", "TCP `address` of /metrics, /healthz and /readyz; \"\" for none")
	set.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	set.StringVar(&f.logFormat, "log-format", "text", "text or json")
	printVersion := set.Bool("version", false, "print the version and end")
	set.Usage = func() { fmt.Fprint(stdout, usage+set.FlagUsagesWrapped(110)) }
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	if *printVersion {
		fmt.Fprintln(stdout, "fogprobe", version)
		return nil, pflag.ErrHelp
	}
	if set.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", set.Arg(0))
	}
	var err error
	if f.Peers == publish.PeersEndpointSlices {
		if f.Service, err = namespacedName("--service", f.service); err != nil {
			return nil, err
		}
	}
	if f.interest != "" {
		if f.Interest, err = namespacedName("--interest", f.interest); err != nil {
			return nil, err
		}
	}
	if f.Peers == publish.PeersNodes {
		f.PeerPort = f.ProberOptions.Port
	}
	if f.ProberOptions.Port == 0 && f.Protocol != publish.ProtocolSTAMP && f.Protocol != "icmp" {
		if f.ProberOptions.Port, err = portOf(f.http); err != nil {
			return nil, fmt.Errorf("--port: must be given with --protocol=%s, since --http-address has none", f.Protocol)
		}
	}
	if f.bind != "" {
		if f.Bind, err = netip.ParseAddr(f.bind); err != nil {
			return nil, fmt.Errorf("--bind-address: %w", err)
		}
	}
	if f.Endpoint == "" {
		if f.Endpoint, err = defaultEndpoint(f.Listen, f.bind, getenv); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// namespacedName reads the NAMESPACE/NAME of an object.
func namespacedName(flag, text string) (types.NamespacedName, error) {
	namespace, name, ok := strings.Cut(text, "/")
	if !ok || len(validation.IsDNS1123Label(namespace)) > 0 || len(validation.IsDNS1123Subdomain(name)) > 0 {
		return types.NamespacedName{}, fmt.Errorf("%s: %q: must be NAMESPACE/NAME, as in fogsched-system/fogprobe", flag, text)
	}
	return types.NamespacedName{Namespace: namespace, Name: name}, nil
}

func portOf(address string) (uint16, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err == nil && n == 0 {
		err = errors.New("port 0 is none")
	}
	return uint16(n), err
}

// defaultEndpoint finds an address at which others probably reach the reflector.
func defaultEndpoint(listen, bind string, getenv func(string) string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", fmt.Errorf("--listen: %w", err)
	}
	if port == "0" {
		return "", errors.New("--listen: port 0 needs an --endpoint")
	}
	local, err := net.InterfaceAddrs()
	if err != nil {
		return "", fmt.Errorf("looking for an address of this machine: %w", err)
	}
	candidates := []string{host, getenv("POD_IP"), getenv("HOST_IP"), bind}
	for _, a := range local {
		if ipNet, ok := a.(*net.IPNet); ok && ipNet.IP.IsGlobalUnicast() {
			candidates = append(candidates, ipNet.IP.String())
		}
	}
	for _, c := range candidates {
		if ip, err := netip.ParseAddr(c); err == nil && !ip.IsUnspecified() {
			return net.JoinHostPort(c, port), nil
		}
	}
	return "", errors.New("--endpoint: must be given, since this machine has no address that others could reach")
}

// restConfig finds the API server; nil for "none".
func restConfig(kubeconfig string) (*rest.Config, error) {
	var config *rest.Config
	var err error
	switch kubeconfig {
	case "none":
		return nil, nil
	case "":
		if config, err = rest.InClusterConfig(); err != nil {
			return nil, fmt.Errorf("finding the API server: %w (--kubeconfig names a file, or \"none\")", err)
		}
	default:
		if config, err = clientcmd.BuildConfigFromFlags("", kubeconfig); err != nil {
			return nil, fmt.Errorf("reading --kubeconfig: %w", err)
		}
	}
	config.UserAgent = "fogprobe"
	return config, nil
}

func newLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	opts := &slog.HandlerOptions{}
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level: %w", err)
	}
	opts.Level = l
	switch strings.ToLower(format) {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	default:
		return nil, fmt.Errorf("--log-format: %q: must be text or json", format)
	}
}

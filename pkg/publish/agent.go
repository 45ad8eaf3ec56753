// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/client"
	"github.com/fogsched/fogsched/pkg/probe"
)

// Options configure the prober of one node.
type Options struct {
	// NodeName is the name of the node: that of its Node, and of its NodeLatency.
	NodeName string
	// Listen is the UDP address of the reflector, such as ":8620".
	Listen string
	// Bind is the source address of the probes. By default it is that of Listen when that names one, and else the routing
	// table chooses.
	Bind netip.Addr
	// Endpoint is the address at which other nodes reach the reflector. By default it is that of Listen, which then has to
	// name one.
	Endpoint string
	// Peers says where peers are learnt from: PeersNodeLatencies (the default), PeersEndpointSlices, PeersNodes, or the path of a
	// file.
	Peers string
	// Service is the probers' headless Service, with PeersEndpointSlices.
	Service types.NamespacedName
	// Interest is the ConfigMap in which the scheduler lists the nodes that every prober measures. The zero value is none.
	Interest types.NamespacedName
	// PeerPort is the port of all reflectors with PeersNodes. By default it is the endpoint's.
	PeerPort uint16
	// Neighbors is how many peers are measured, those of Interest apart; 0 means probe.DefaultNeighbors.
	Neighbors int
	// Interval, Rate, Timeout and Window are those of probe.LoopConfig.
	Interval, Timeout time.Duration
	Rate              float64
	Window            int
	// Protocol is how peers are probed: ProtocolSTAMP (the default), or one that probe.NewProber knows, with ProberOptions.
	Protocol      string
	ProberOptions probe.ProberOptions
	// KeyFile is the file with the key of authenticated STAMP, which all probers share. "" means unauthenticated.
	KeyFile string
	// PairMetrics is up to how many pairs of the whole cluster each pair that this node measures is a metric.
	PairMetrics int
	// MinGap and MaxAge are the least and the most time between two writes of the NodeLatency; 0 leaves them to PaceOf.
	MinGap, MaxAge time.Duration
	// Config is how the API server is reached; it is not modified. nil means that nothing is published, and that the peers
	// come from a file.
	Config *rest.Config
	// Registerer takes the metrics, and Gatherer is what Handler shows. By default both are a registry of the agent's own.
	Registerer prometheus.Registerer
	Gatherer   prometheus.Gatherer
	// Logger defaults to slog.Default.
	Logger *slog.Logger
}

// Agent is the prober of one node: a reflector that answers others, a loop that probes them, and a publisher. Several may
// run in one process.
type Agent struct {
	opts      Options
	endpoint  netip.AddrPort
	reflector *probe.STAMPReflector
	sender    io.Closer
	key       *probe.Key // nil for unauthenticated STAMP
	mesh      *probe.Mesh
	peers     watchPeers
	interest  cache.ListerWatcher // nil where nobody says what matters
	publisher *Publisher          // nil without an API server
	reflects  atomic.Bool
	cluster   atomic.Pointer[cluster]
}

// cluster is what an agent knows of all nodes.
type cluster struct {
	nodes int // its own included
	zones map[string]string
}

// ProtocolSTAMP is the protocol that the reflector answers.
const ProtocolSTAMP = "stamp"

// Run runs the prober of one node until ctx ends, which is no error.
func Run(ctx context.Context, opts Options) error {
	a, err := New(opts)
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// New checks the options, all of them at once, and opens the agent's sockets. Run closes them.
func New(opts Options) (_ *Agent, err error) {
	if opts.Peers == "" {
		opts.Peers = PeersNodeLatencies
	}
	if opts.Protocol == "" {
		opts.Protocol = ProtocolSTAMP
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	if opts.Registerer == nil {
		registry := prometheus.NewRegistry()
		opts.Registerer, opts.Gatherer = registry, registry
	}
	a := &Agent{opts: opts}
	a.cluster.Store(&cluster{nodes: 1})
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	if err := opts.check(); err != nil {
		return nil, err
	}
	// The metrics and what they count need one another.
	picture := func() probe.Picture { return a.mesh.Picture() }
	m, err := newMetrics(opts.Registerer, picture, newPairs(opts.NodeName, opts.PairMetrics, picture, a.clusterNow))
	if err != nil {
		return nil, fmt.Errorf("registering metrics: %w", err)
	}
	if opts.KeyFile != "" {
		if a.key, err = probe.LoadKey(opts.KeyFile, opts.Logger); err != nil {
			return nil, err
		}
	}
	if a.reflector, err = probe.ListenSTAMP(opts.Listen, probe.ReflectorConfig{
		Key: a.key, Count: m.reflect, Info: func() probe.Info { return a.mesh.Info() },
	}); err != nil {
		return nil, err
	}
	listens := a.reflector.Addr()
	if !opts.Bind.IsValid() && !listens.Addr().IsUnspecified() {
		opts.Bind = listens.Addr()
	}
	if opts.Endpoint == "" {
		opts.Endpoint = listens.String()
	}
	if a.endpoint, err = parseEndpoint(opts.Endpoint); err != nil {
		return nil, err
	}
	prober, err := a.openProber(opts, m)
	if err != nil {
		return nil, err
	}
	if a.mesh, err = probe.NewMesh(probe.MeshConfig{
		LoopConfig: probe.LoopConfig{
			Self:     opts.NodeName,
			Control:  controlTarget(listens, opts.Bind),
			Prober:   prober,
			Interval: opts.Interval,
			Rate:     opts.Rate,
			Timeout:  opts.Timeout,
			Window:   opts.Window,
			Observe:  m.observe,
		},
		Neighbors: probe.NeighborsConfig{K: opts.Neighbors},
	}); err != nil {
		return nil, err
	}
	return a, a.connect(m)
}

// openProber opens what sends the probes.
func (a *Agent) openProber(opts Options, m *metrics) (probe.Prober, error) {
	sender, err := probe.OpenSTAMP(probe.SenderConfig{Bind: opts.Bind, Key: a.key, AskInfo: true, Rejected: m.reject})
	if err != nil {
		return nil, err
	}
	a.sender = sender
	if opts.Protocol == ProtocolSTAMP {
		return sender.Probe, nil
	}
	opts.ProberOptions.Bind = opts.Bind
	prober, closer, err := probe.NewProber(opts.Protocol, opts.ProberOptions)
	if err != nil {
		return nil, err
	}
	a.sender = closers{sender, closer}
	// The control pair says how short of CPU the node is, for which its own reflector is there in any case.
	control := controlTarget(a.reflector.Addr(), opts.Bind)
	return func(ctx context.Context, target netip.AddrPort) (probe.Result, error) {
		if target == control {
			return sender.Probe(ctx, target)
		}
		return prober(ctx, target)
	}, nil
}

type closers []io.Closer

func (c closers) Close() error {
	var errs []error
	for _, closer := range c {
		errs = append(errs, closer.Close())
	}
	return errors.Join(errs...)
}

// setNodes takes up which nodes there are.
func (a *Agent) setNodes(nodes []probe.Node) {
	c := &cluster{nodes: len(nodes), zones: map[string]string{}}
	self := false
	for _, n := range nodes {
		self = self || n.Name == a.opts.NodeName
		if n.Zone != "" {
			c.zones[n.Name] = n.Zone
		}
	}
	if !self {
		c.nodes++
	}
	a.cluster.Store(c)
	a.mesh.SetNodes(nodes)
}

func (a *Agent) clusterNow() (nodes int, zone func(string) string) {
	c := a.cluster.Load()
	return c.nodes, func(node string) string { return c.zones[node] }
}

func (a *Agent) pace() Pace { return PaceOf(a.cluster.Load().nodes).or(a.opts.MinGap, a.opts.MaxAge) }

// check returns all that is wrong with the options and can be told from them alone.
func (o *Options) check() error {
	var errs []error
	if msgs := validation.IsDNS1123Subdomain(o.NodeName); o.NodeName == "" {
		errs = append(errs, errors.New("node name: is missing"))
	} else if len(msgs) > 0 {
		errs = append(errs, fmt.Errorf("node name: %q: %s", o.NodeName, msgs[0]))
	}
	switch o.Peers {
	case PeersNodeLatencies, PeersNodes, PeersEndpointSlices:
		if o.Config == nil {
			errs = append(errs, fmt.Errorf("peers: %s: needs an API server", o.Peers))
		}
		if o.Peers == PeersEndpointSlices && (o.Service.Namespace == "" || o.Service.Name == "") {
			errs = append(errs, errors.New("service: must be NAMESPACE/NAME of the probers' headless Service, to take the peers from its EndpointSlices"))
		}
	}
	if o.MinGap < 0 || o.MaxAge < 0 || o.MaxAge > 0 && o.MaxAge < o.MinGap {
		errs = append(errs, fmt.Errorf("writes: at least %v and at most %v apart: must be above 0, and the most above the least", o.MinGap, o.MaxAge))
	}
	if o.MaxAge > mostAge {
		errs = append(errs, fmt.Errorf("writes: at most %v apart: must be at most %v, the longest that the scheduler waits for", o.MaxAge, mostAge))
	}
	if o.PairMetrics < 0 {
		errs = append(errs, fmt.Errorf("pair metrics: %d: must be 0, for none, or more", o.PairMetrics))
	}
	if o.KeyFile != "" && o.Protocol != ProtocolSTAMP {
		errs = append(errs, fmt.Errorf("key file: is of no use with the protocol %s", o.Protocol))
	}
	return errors.Join(errs...)
}

// controlTarget returns where a node finds its own reflector without leaving the machine.
func controlTarget(listens netip.AddrPort, bind netip.Addr) netip.AddrPort {
	switch {
	case !listens.Addr().IsUnspecified():
		return listens
	case bind.IsValid():
		return netip.AddrPortFrom(bind, listens.Port())
	default:
		// A socket for all addresses of both protocols takes IPv4's too, and a sender without an address can send both.
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), listens.Port())
	}
}

// connect makes what talks to the API server.
func (a *Agent) connect(m *metrics) error {
	opts := &a.opts
	log := opts.Logger.With("node", opts.NodeName)
	if opts.Config == nil {
		a.peers = watchFile(opts.Peers, log)
		return nil
	}
	api, err := client.New(opts.Config)
	if err != nil {
		return err
	}
	kube, err := newKubeClient(opts.Config)
	if err != nil {
		return err
	}
	switch opts.Peers {
	case PeersEndpointSlices:
		a.peers = watchPeerObjects(kube.endpointSlices(opts.Service), endpointSlices, log)
	case PeersNodeLatencies:
		a.peers = watchPeerObjects(api.ListWatchNodeLatencies(), nodeLatencies, log)
	case PeersNodes:
		port := opts.PeerPort
		if port == 0 {
			port = a.endpoint.Port()
		}
		a.peers = watchPeerObjects(kube.nodes(), nodeAddresses(port), log)
	default:
		a.peers = watchFile(opts.Peers, log)
	}
	if opts.Interest.Name != "" {
		a.interest = kube.configMap(opts.Interest)
	}
	a.publisher = NewPublisher(PublisherConfig{
		Node:     opts.NodeName,
		Endpoint: a.endpoint.String(),
		Objects:  api.NodeLatencies(),
		NodeUID:  func(ctx context.Context) (types.UID, error) { return kube.nodeUID(ctx, opts.NodeName) },
		Measured: func() v1alpha1.NodeLatencyStatus { return Status(a.mesh.Picture()) },
		Pace:     a.pace,
		Count:    m.countPublish,
		Log:      log,
	})
	return nil
}

// Endpoint returns the address at which the agent tells others to probe it.
func (a *Agent) Endpoint() netip.AddrPort { return a.endpoint }

// Picture returns what the agent measured.
func (a *Agent) Picture() probe.Picture { return a.mesh.Picture() }

// Run runs the agent until ctx ends, which is no error, or a part of it fails. It can be called once.
func (a *Agent) Run(ctx context.Context) error {
	defer a.close()
	group, ctx := errgroup.WithContext(ctx)
	a.reflects.Store(true)
	group.Go(func() error {
		defer a.reflects.Store(false)
		return a.reflector.Serve(ctx)
	})
	group.Go(func() error {
		a.mesh.Run(ctx)
		return nil
	})
	group.Go(func() error { return a.peers(ctx, a.setNodes) })
	if a.interest != nil {
		group.Go(func() error { return watchInterest(ctx, a.interest, a.mesh.SetInterest, a.opts.Logger) })
	}
	if a.key != nil {
		group.Go(func() error {
			a.key.Watch(ctx)
			return nil
		})
	}
	if a.publisher != nil {
		group.Go(func() error {
			a.publisher.Run(ctx)
			return nil
		})
	}
	return group.Wait()
}

func (a *Agent) close() {
	if a.reflector != nil {
		_ = a.reflector.Close()
	}
	if a.sender != nil {
		_ = a.sender.Close()
	}
}

// Handler serves /metrics, /healthz (the agent's parts are alive) and /readyz (others can probe this node, and what it
// measured was published, where there is an API server).
func (a *Agent) Handler() http.Handler {
	mux := http.NewServeMux()
	if a.opts.Gatherer != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(a.opts.Gatherer, promhttp.HandlerOpts{}))
	}
	mux.HandleFunc("GET /healthz", answer(a.Healthy))
	mux.HandleFunc("GET /readyz", answer(a.Ready))
	return mux
}

func answer(check func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if err := check(); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = fmt.Fprintln(w, err)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	}
}

// Healthy returns nil while the agent's parts are alive.
func (a *Agent) Healthy() error {
	var errs []error
	if !a.reflects.Load() {
		errs = append(errs, errors.New("the reflector does not run"))
	}
	// Three times the longest that each may take, so that a busy machine is not taken for a dead loop.
	if age := time.Since(a.mesh.LastBeat()); age > 3*probe.MinInterval {
		errs = append(errs, fmt.Errorf("the loop stands still since %v", age.Round(time.Second)))
	}
	if a.publisher != nil {
		if age := time.Since(a.publisher.lastBeat()); age > 3*tickInterval+9*callTimeout {
			errs = append(errs, fmt.Errorf("the publisher stands still since %v", age.Round(time.Second)))
		}
	}
	return errors.Join(errs...)
}

// Ready returns nil when other nodes can probe this one, and what it measured was published once.
func (a *Agent) Ready() error {
	if !a.reflects.Load() {
		return errors.New("the reflector does not run")
	}
	if a.publisher != nil {
		return a.publisher.ready()
	}
	return nil
}

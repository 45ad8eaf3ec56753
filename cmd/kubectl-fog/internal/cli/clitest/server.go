// SPDX-License-Identifier: Apache-2.0

// Package clitest tests commands of kubectl-fog: a small API server that lists what a test gives it, and golden files.
package clitest

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/internal/testserver"
	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
)

// Server is as much of an API server as reading takes: it lists, gets and watches the objects of a test. Real ones are under test/.
type Server struct {
	*httptest.Server

	// NoCRDs has the server not know the API group fogsched.dev.
	NoCRDs bool
	// Forbidden are the resources, as "list nodes", that the user may not use.
	Forbidden []string
	// Handle, where not nil, answers first; false leaves a request to the server.
	Handle func(w http.ResponseWriter, r *http.Request) bool

	mu       sync.Mutex
	objects  map[schema.GroupVersionResource][]runtime.Object
	watchers map[chan event]schema.GroupVersionResource
}

// event is what a watch tells.
type event struct {
	Type   watch.EventType `json:"type"`
	Object runtime.Object  `json:"object"`
}

var scheme = func() *runtime.Scheme {
	s := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(s); err != nil {
		panic(err)
	}
	if err := v1alpha1.AddToScheme(s); err != nil {
		panic(err)
	}
	return s
}()

// NewServer serves objects until the test ends.
func NewServer(t testing.TB, objects ...runtime.Object) *Server {
	t.Helper()
	s := &Server{objects: map[schema.GroupVersionResource][]runtime.Object{}, watchers: map[chan event]schema.GroupVersionResource{}}
	s.Add(t, objects...)
	s.Server = testserver.New(t, s)
	return s
}

// Add has the server serve more objects.
func (s *Server) Add(t testing.TB, objects ...runtime.Object) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range objects {
		gvks, _, err := scheme.ObjectKinds(o)
		if err != nil {
			t.Fatal(err)
		}
		o = o.DeepCopyObject()
		o.GetObjectKind().SetGroupVersionKind(gvks[0])
		gvr, _ := meta.UnsafeGuessKindToResource(gvks[0])
		s.objects[gvr] = append(s.objects[gvr], o)
		s.tell(gvr, event{watch.Added, o})
	}
}

// Change has the server serve other objects in place of those of the same name.
func (s *Server) Change(t testing.TB, objects ...runtime.Object) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range objects {
		gvks, _, err := scheme.ObjectKinds(o)
		if err != nil {
			t.Fatal(err)
		}
		o = o.DeepCopyObject()
		o.GetObjectKind().SetGroupVersionKind(gvks[0])
		gvr, _ := meta.UnsafeGuessKindToResource(gvks[0])
		m, err := meta.Accessor(o)
		if err != nil {
			t.Fatal(err)
		}
		for i, old := range s.objects[gvr] {
			if om, err := meta.Accessor(old); err == nil && om.GetName() == m.GetName() && om.GetNamespace() == m.GetNamespace() {
				s.objects[gvr][i] = o
				s.tell(gvr, event{watch.Modified, o})
			}
		}
	}
}

func (s *Server) tell(gvr schema.GroupVersionResource, e event) {
	for w, of := range s.watchers {
		if of == gvr {
			w <- e
		}
	}
}

// watch tells of what changes from now on until the client has enough.
func (s *Server) watch(w http.ResponseWriter, r *http.Request, gvr schema.GroupVersionResource) {
	events := make(chan event, 1000) // more than a test changes
	s.mu.Lock()
	s.watchers[events] = gvr
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watchers, events)
	}()
	w.Header().Set("Content-Type", "application/json")
	flush := http.NewResponseController(w)
	_ = flush.Flush()
	for {
		select {
		case <-r.Context().Done():
			return
		case e := <-events:
			_ = json.NewEncoder(w).Encode(e)
			_ = flush.Flush()
		}
	}
}

// ServeHTTP answers as an API server does.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.Handle != nil && s.Handle(w, r) {
		return
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	var gvr schema.GroupVersionResource
	switch {
	case len(parts) >= 3 && parts[0] == "api":
		gvr.Version, parts = parts[1], parts[2:]
	case len(parts) >= 4 && parts[0] == "apis":
		gvr.Group, gvr.Version, parts = parts[1], parts[2], parts[3:]
	default:
		s.refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find the requested resource")
		return
	}
	namespace := ""
	if parts[0] == "namespaces" && len(parts) >= 3 {
		namespace, parts = parts[1], parts[2:]
	}
	gvr.Resource = parts[0]
	if gvr.Group == v1alpha1.GroupVersion.Group && s.NoCRDs {
		s.refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find the requested resource")
		return
	}
	verb := "list"
	if len(parts) > 1 {
		verb = "get"
	}
	watching := r.URL.Query().Get("watch") == "true" || r.URL.Query().Get("watch") == "1"
	if watching {
		verb = "watch"
	}
	if r.Method != http.MethodGet {
		s.refuse(w, http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed, "this server is for reading")
		return
	}
	for _, f := range s.Forbidden {
		if f == verb+" "+gvr.Resource {
			s.refuse(w, http.StatusForbidden, metav1.StatusReasonForbidden, gvr.Resource+` is forbidden: User "jo" cannot `+verb)
			return
		}
	}
	if watching {
		if r.URL.Query().Get("sendInitialEvents") == "true" { // the client lists then
			s.refuse(w, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, "sendInitialEvents is not supported")
			return
		}
		s.watch(w, r, gvr)
		return
	}
	selector, err := labels.Parse(r.URL.Query().Get("labelSelector"))
	if err != nil {
		s.refuse(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error())
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	items := []runtime.Object{}
	for _, o := range s.objects[gvr] {
		m, err := meta.Accessor(o)
		if err != nil || namespace != "" && m.GetNamespace() != namespace || !selector.Matches(labels.Set(m.GetLabels())) {
			continue
		}
		if verb == "get" && m.GetName() == parts[1] {
			s.answer(w, http.StatusOK, o)
			return
		}
		items = append(items, o)
	}
	if verb == "get" {
		s.refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound, gvr.Resource+` "`+parts[1]+`" not found`)
		return
	}
	s.answer(w, http.StatusOK, map[string]any{
		"kind": listKind(gvr), "apiVersion": gvr.GroupVersion().String(), "metadata": map[string]string{"resourceVersion": "1"}, "items": items,
	})
}

// listKind returns the kind of a resource's lists.
func listKind(gvr schema.GroupVersionResource) string {
	for kind := range scheme.KnownTypes(gvr.GroupVersion()) {
		if plural, _ := meta.UnsafeGuessKindToResource(gvr.GroupVersion().WithKind(kind)); plural == gvr {
			return kind + "List"
		}
	}
	return "List"
}

func (s *Server) refuse(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	s.answer(w, code, metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message,
	})
}

func (s *Server) answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // whoever hung up needs no answer
}

// Now is the time of tests.
var Now = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// Kubeconfig writes a kubeconfig for the server, and returns its path.
func (s *Server) Kubeconfig(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := `{"apiVersion": "v1", "kind": "Config", "current-context": "test",
		"clusters": [{"name": "test", "cluster": {"server": "` + s.URL + `"}}],
		"users": [{"name": "jo", "user": {}}],
		"contexts": [{"name": "test", "context": {"cluster": "test", "user": "jo", "namespace": "default"}}]}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Result is what a command did.
type Result struct {
	Out, Err string
	Error    error
}

// Run runs a command at Now, as a user would who has a terminal of a width, or no terminal where it is 0, and the given arguments. environment
// has lines like "NO_COLOR=1". command makes the command.
func (s *Server) Run(t testing.TB, command func(*cli.Options) *cobra.Command, width int, environment []string, args ...string) Result {
	t.Helper()
	return Run(t, s.Kubeconfig(t), command, width, environment, args...)
}

// Run is Server.Run for any kubeconfig.
func Run(t testing.TB, kubeconfig string, command func(*cli.Options) *cobra.Command, width int, environment []string, args ...string) Result {
	t.Helper()
	var in, out, errOut bytes.Buffer
	o := cli.NewOptions(genericiooptions.IOStreams{In: &in, Out: &out, ErrOut: &errOut})
	o.Now = func() time.Time { return Now }
	o.Width = width
	o.Getenv = func(name string) string {
		for _, e := range environment {
			if k, v, _ := strings.Cut(e, "="); k == name {
				return v
			}
		}
		return ""
	}
	cmd := command(o)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	if cmd.PersistentFlags().Lookup("kubeconfig") == nil && cmd.Flags().Lookup("kubeconfig") == nil {
		o.AddFlags(cmd.PersistentFlags())
	}
	cmd.SetArgs(append([]string{"--kubeconfig=" + kubeconfig}, args...))
	cmd.SetOut(&out)
	cmd.SetErr(&errOut)
	cmd.SetIn(io.Reader(&in))
	err := cmd.ExecuteContext(t.Context())
	return Result{Out: out.String(), Err: errOut.String(), Error: err}
}

var update = flag.Bool("update", false, "write the golden files")

// Golden compares a text with testdata/NAME; `go test -update` writes it.
func Golden(t testing.TB, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (go test -update writes it)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got; go test -update writes it):\n%s", path, diff)
	}
}

// Node returns a ready node with labels, as "key=value".
func Node(name string, labels ...string) *v1.Node {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1.LabelHostname: name}}}
	for _, l := range labels {
		k, value, _ := strings.Cut(l, "=")
		n.Labels[k] = value
	}
	n.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}}
	return n
}

// Latency returns what a node's prober published at Now: the RTT to each peer, as "peer=20ms", or "peer=lost" for one that did not answer.
func Latency(node string, peers ...string) *v1alpha1.NodeLatency {
	at := metav1.NewTime(Now.Add(-10 * time.Second))
	nl := &v1alpha1.NodeLatency{ObjectMeta: metav1.ObjectMeta{Name: node}}
	nl.Status.ObservedAt = &at
	nl.Status.RefreshInterval = &metav1.Duration{Duration: time.Minute}
	control := metav1.Duration{Duration: 60 * time.Microsecond}
	nl.Status.Control = &v1alpha1.Measurement{Typical: &control, Tail: &control, Samples: 20, At: &at}
	for _, p := range peers {
		name, rtt, _ := strings.Cut(p, "=")
		m := v1alpha1.Measurement{Samples: 20, At: &at}
		if d, err := time.ParseDuration(rtt); err == nil {
			m.Typical, m.Tail = &metav1.Duration{Duration: d}, &metav1.Duration{Duration: d * 3 / 2}
		} else {
			m.Samples, m.Lost, m.At = 0, 20, nil
		}
		nl.Status.Peers = append(nl.Status.Peers, v1alpha1.PeerLatency{Node: name, Measurement: m})
	}
	return nl
}

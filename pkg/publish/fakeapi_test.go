// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/fogsched/fogsched/internal/testserver"
	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
)

// fakeAPI is as much of an API server as a prober needs: Nodes, and NodeLatency objects with resource versions, a status
// subresource and watches.
type fakeAPI struct {
	*httptest.Server

	mu       sync.Mutex
	version  int
	noCRD    bool
	down     bool
	nodes    map[string]types.UID
	objects  map[string]*v1alpha1.NodeLatency
	requests map[string]int // "PUT /status" and the like
	watches  map[chan watchEvent]bool
}

type watchEvent struct {
	Type   string `json:"type"`
	Object any    `json:"object"`
}

func newFakeAPI(t *testing.T, nodes ...string) *fakeAPI {
	t.Helper()
	f := &fakeAPI{
		nodes:    map[string]types.UID{},
		objects:  map[string]*v1alpha1.NodeLatency{},
		requests: map[string]int{},
		watches:  map[chan watchEvent]bool{},
	}
	for _, n := range nodes {
		f.nodes[n] = types.UID("uid-of-" + n)
	}
	const path = "/apis/fogsched.dev/v1alpha1/nodelatencies"
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/nodes/{name}", f.handle(f.getNode))
	mux.HandleFunc("GET "+path, f.list)
	mux.HandleFunc("POST "+path, f.handle(f.create))
	mux.HandleFunc("GET "+path+"/{name}", f.handle(f.get))
	mux.HandleFunc("PUT "+path+"/{name}", f.handle(func(r *http.Request) (any, int) { return f.put(r, false) }))
	mux.HandleFunc("PUT "+path+"/{name}/status", f.handle(func(r *http.Request) (any, int) { return f.put(r, true) }))
	f.Server = testserver.New(t, mux)
	return f
}

func (f *fakeAPI) config() *rest.Config {
	return &rest.Config{Host: f.URL, QPS: 1000, Burst: 1000}
}

func (f *fakeAPI) do(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// object returns a copy of a NodeLatency, or nil.
func (f *fakeAPI) object(name string) *v1alpha1.NodeLatency {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.objects[name].DeepCopy()
}

func (f *fakeAPI) count(request string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests[request]
}

// delete deletes an object, as somebody or the garbage collector would.
func (f *fakeAPI) delete(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	o := f.objects[name]
	delete(f.objects, name)
	f.version++
	o.ResourceVersion = strconv.Itoa(f.version)
	f.tell("DELETED", o)
}

func status(code int, reason metav1.StatusReason, message string) (any, int) {
	return &metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
		Status:   metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message,
	}, code
}

func (f *fakeAPI) handle(serve func(*http.Request) (any, int)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		kind := "object"
		if strings.HasPrefix(r.URL.Path, "/api/v1/") {
			kind = "node"
		}
		if strings.HasSuffix(r.URL.Path, "/status") {
			kind = "status"
		}
		f.requests[r.Method+" "+kind]++
		var body any
		var code int
		switch {
		case f.down:
			body, code = status(http.StatusInternalServerError, metav1.StatusReasonInternalError, "etcd has no leader")
		case f.noCRD && kind != "node":
			http.NotFound(w, r) // as the real one: plain text
			return
		default:
			body, code = serve(r)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(body)
	}
}

func (f *fakeAPI) getNode(r *http.Request) (any, int) {
	uid, ok := f.nodes[r.PathValue("name")]
	if !ok {
		return status(http.StatusNotFound, metav1.StatusReasonNotFound, "nodes not found")
	}
	return &corev1.Node{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: r.PathValue("name"), UID: uid},
	}, http.StatusOK
}

func (f *fakeAPI) get(r *http.Request) (any, int) {
	o, ok := f.objects[r.PathValue("name")]
	if !ok {
		return status(http.StatusNotFound, metav1.StatusReasonNotFound, "nodelatencies not found")
	}
	return o, http.StatusOK
}

func (f *fakeAPI) create(r *http.Request) (any, int) {
	o := &v1alpha1.NodeLatency{}
	if err := json.NewDecoder(r.Body).Decode(o); err != nil {
		return status(http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error())
	}
	if f.objects[o.Name] != nil {
		return status(http.StatusConflict, metav1.StatusReasonAlreadyExists, "exists")
	}
	o.Status = v1alpha1.NodeLatencyStatus{}
	o.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "fogprobe", Operation: metav1.ManagedFieldsOperationUpdate}}
	f.store(o, "ADDED")
	return o, http.StatusCreated
}

func (f *fakeAPI) put(r *http.Request, isStatus bool) (any, int) {
	o := &v1alpha1.NodeLatency{}
	if err := json.NewDecoder(r.Body).Decode(o); err != nil {
		return status(http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error())
	}
	old := f.objects[r.PathValue("name")]
	switch {
	case old == nil:
		return status(http.StatusNotFound, metav1.StatusReasonNotFound, "nodelatencies not found")
	case o.ResourceVersion != old.ResourceVersion:
		return status(http.StatusConflict, metav1.StatusReasonConflict, "the object has been modified")
	}
	updated := old.DeepCopy()
	if isStatus {
		updated.Status = o.Status
	} else {
		updated.Spec, updated.ObjectMeta = o.Spec, o.ObjectMeta
		if len(o.ManagedFields) == 1 && o.ManagedFields[0].Manager == "" {
			updated.ManagedFields = nil
		} else {
			updated.ManagedFields = old.ManagedFields
		}
	}
	f.store(updated, "MODIFIED")
	return updated, http.StatusOK
}

func (f *fakeAPI) store(o *v1alpha1.NodeLatency, event string) {
	f.version++
	o.ResourceVersion = strconv.Itoa(f.version)
	o.APIVersion, o.Kind = v1alpha1.GroupVersion.String(), "NodeLatency"
	f.objects[o.Name] = o
	f.tell(event, o)
}

func (f *fakeAPI) tell(event string, o *v1alpha1.NodeLatency) {
	for c := range f.watches {
		c <- watchEvent{event, o.DeepCopy()}
	}
}

// list answers lists and watches, also those that begin with the list.
func (f *fakeAPI) list(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	if f.noCRD {
		f.mu.Unlock()
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	var all []v1alpha1.NodeLatency
	for _, name := range slices.Sorted(maps.Keys(f.objects)) {
		all = append(all, *f.objects[name].DeepCopy())
	}
	version := strconv.Itoa(max(f.version, 1))
	if r.URL.Query().Get("watch") == "" {
		f.mu.Unlock()
		_ = json.NewEncoder(w).Encode(&v1alpha1.NodeLatencyList{
			TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "NodeLatencyList"},
			ListMeta: metav1.ListMeta{ResourceVersion: version}, Items: all,
		})
		return
	}
	events := make(chan watchEvent, 10_000)
	f.watches[events] = true
	f.mu.Unlock()
	defer f.do(func() { delete(f.watches, events) })
	out := json.NewEncoder(w)
	if r.URL.Query().Get("sendInitialEvents") == "true" {
		for i := range all {
			_ = out.Encode(watchEvent{"ADDED", &all[i]})
		}
		_ = out.Encode(watchEvent{"BOOKMARK", &v1alpha1.NodeLatency{
			TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "NodeLatency"},
			ObjectMeta: metav1.ObjectMeta{
				ResourceVersion: version, Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"},
			},
		}})
	}
	w.(http.Flusher).Flush()
	for {
		select {
		case <-r.Context().Done():
			return
		case e := <-events:
			if err := out.Encode(e); err != nil {
				return
			}
			w.(http.Flusher).Flush()
		}
	}
}

func (f *fakeAPI) String() string { return fmt.Sprint(f.requests) }

// SPDX-License-Identifier: Apache-2.0

package client

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
)

const head = `{"apiVersion":"fogsched.dev/v1alpha1","kind":"NodeLatencyList","metadata":{"resourceVersion":"7","more":{"items":[1]}},`

func answering(t *testing.T, status int, body string) *Client {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if want := "/apis/fogsched.dev/v1alpha1/nodelatencies?resourceVersion=0"; r.URL.String() != want {
			t.Errorf("asked for %s, want %s", r.URL, want)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	t.Cleanup(server.Close)
	c, err := New(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var fromCache = metav1.ListOptions{ResourceVersion: "0"}

func TestStreamNodeLatencies(t *testing.T) {
	items := `{"apiVersion":"fogsched.dev/v1alpha1","kind":"NodeLatency","metadata":{"name":"a","labels":{"items":"x"}},"status":{"peers":[{"node":"b","typical":"12.3ms","samples":9}],"new":{"of":["a","later","version"]}}},
		{"metadata":{"name":"b"}}`
	a := &v1alpha1.NodeLatency{}
	a.APIVersion, a.Kind, a.Name, a.Labels = "fogsched.dev/v1alpha1", "NodeLatency", "a", map[string]string{"items": "x"}
	a.Status.Peers = []v1alpha1.PeerLatency{{Node: "b", Measurement: v1alpha1.Measurement{Typical: &metav1.Duration{Duration: 12300 * time.Microsecond}, Samples: 9}}}
	b := &v1alpha1.NodeLatency{}
	b.Name = "b"
	for body, want := range map[string][]*v1alpha1.NodeLatency{
		head + `"items":[` + items + `]}`:                    {a, b},
		head + `"items":[` + items + `],"later":{"new":[]}}`: {a, b},
		head + `"items":[]}`:                                 nil,
		head + `"items":null}`:                               nil,
	} {
		got, err := answering(t, http.StatusOK, body).StreamNodeLatencies(t.Context(), fromCache)
		if err != nil {
			t.Errorf("%s: %v", body, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", body, diff)
		}
	}
}

// What is no whole list is an error, and never a shorter list.
func TestStreamNodeLatenciesBrokenOff(t *testing.T) {
	whole := head + `"items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b"}}]}`
	for n := range len(whole) {
		got, err := decodeItems[v1alpha1.NodeLatency](strings.NewReader(whole[:n]))
		if err == nil || got != nil {
			t.Errorf("%s: %d items and error %v, want an error alone", whole[:n], len(got), err)
		}
	}
	for _, body := range []string{`{}`, `{"kind":"Status","status":"Success"}`, `[]`, `7`, whole[:len(whole)/2], `{"items":7}`, `{"items":{}}`, `{"items":[7]}`, `{"items":[{"metadata":{"name":7}}]}`, `<html>`} {
		if got, err := answering(t, http.StatusOK, body).StreamNodeLatencies(t.Context(), fromCache); err == nil || !strings.Contains(err.Error(), "nodelatencies") {
			t.Errorf("%s: %d items and error %v, want one that says what was read", body, len(got), err)
		}
	}
}

func TestStreamNodeLatenciesRefused(t *testing.T) {
	body := `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no","reason":"Forbidden","code":403}`
	if _, err := answering(t, http.StatusForbidden, body).StreamNodeLatencies(t.Context(), fromCache); !apierrors.IsForbidden(err) {
		t.Errorf("403: %v, want Forbidden", err)
	}
	if _, err := answering(t, http.StatusNotFound, "404 page not found\n").StreamNodeLatencies(t.Context(), fromCache); !apierrors.IsNotFound(err) {
		t.Errorf("404: %v, want NotFound", err)
	}
}

// SPDX-License-Identifier: Apache-2.0

package kind

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

func TestJoinConfig(t *testing.T) {
	for name, test := range map[string]struct{ config, want string }{
		"a node's own name and address": {
			"node-ip: 172.18.0.2\nprovider-id: kind://docker/c/c-worker\n",
			"node-ip: 172.18.0.9\nprovider-id: kind://docker/c/c-worker3\n",
		},
		"quoted": {
			`value: "172.18.0.2"` + "\n" + `value: "kind://docker/c/c-worker"`,
			`value: "172.18.0.9"` + "\n" + `value: "kind://docker/c/c-worker3"`,
		},
		"others that begin or end alike stay": {
			"172.18.0.22 1172.18.0.2 c-worker2 my-c-worker c-worker-2 c-control-plane:6443",
			"172.18.0.22 1172.18.0.2 c-worker2 my-c-worker c-worker-2 c-control-plane:6443",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := joinConfig(test.config, "c-worker", "172.18.0.2", "c-worker3", "172.18.0.9")
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestKindConfig(t *testing.T) {
	for name, test := range map[string]struct {
		engine *Engine
		want   map[string]any
	}{
		"the machine's engine chooses a free port": {
			&Engine{Address: "127.0.0.1"},
			map[string]any{"apiServerAddress": "127.0.0.1"},
		},
		"our own has all ports to itself": {
			&Engine{Address: "172.29.1.2", own: &ownEngine{}},
			map[string]any{"apiServerAddress": "172.29.1.2", "apiServerPort": 6443.0},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got struct {
				Networking map[string]any      `json:"networking"`
				Nodes      []map[string]string `json:"nodes"`
				Patches    []string            `json:"kubeadmConfigPatches"`
			}
			if err := yaml.UnmarshalStrict([]byte(strings.TrimPrefix(kindConfig(test.engine, 2), "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\n")), &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got.Networking); diff != "" {
				t.Errorf("networking (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]map[string]string{{"role": "control-plane"}, {"role": "worker"}, {"role": "worker"}}, got.Nodes); diff != "" {
				t.Errorf("nodes (-want +got):\n%s", diff)
			}
			if len(got.Patches) != 1 || !strings.Contains(got.Patches[0], "failCgroupV1: false") {
				t.Errorf("patches: %q", got.Patches)
			}
		})
	}
}

func TestNamesAreChecked(t *testing.T) {
	for _, name := range []string{"", "-x", "Upper", "a b", "../x", strings.Repeat("x", 41)} {
		if _, err := StartEngine(t.Context(), EngineConfig{Name: name}); err == nil {
			t.Errorf("StartEngine took the name %q", name)
		}
		if err := Delete(t.Context(), name, nil); err == nil {
			t.Errorf("Delete took the name %q", name)
		}
	}
}

func TestPoll(t *testing.T) {
	calls := 0
	err := poll(t.Context(), time.Minute, "waiting", func(context.Context) (bool, error) {
		calls++
		return calls == 2, errors.New("not yet")
	})
	if err != nil || calls != 2 {
		t.Errorf("%d calls, %v", calls, err)
	}
	err = poll(t.Context(), time.Millisecond, "waiting for rain", func(context.Context) (bool, error) {
		return false, errors.New("the sun shines")
	})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "waiting for rain") || !strings.Contains(err.Error(), "the sun shines") {
		t.Errorf("the error says neither what nor why: %v", err)
	}
}

// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli/clitest"
)

// What could not be followed as a whole is not followed in parts that nobody sees.
func TestFollowThatFailedWatchesNothing(t *testing.T) {
	s := clitest.NewServer(t, clitest.Node("berlin-1"))
	s.Forbidden = []string{"list pods", "watch pods"}
	began, ended := make(chan struct{}), make(chan struct{})
	var beginning, ending sync.Once
	s.Handle = func(_ http.ResponseWriter, r *http.Request) bool {
		watch := r.URL.Query().Get("watch") != "" && r.URL.Query().Get("sendInitialEvents") == ""
		switch {
		case strings.HasSuffix(r.URL.Path, "/pods"):
			select {
			case <-began: // refused when the nodes are watched already
			case <-r.Context().Done():
			}
			return false
		case watch:
			beginning.Do(func() { close(began) })
			<-r.Context().Done()
			ending.Do(func() { close(ended) })
			return true
		}
		return false
	}
	o := cli.NewOptions(genericiooptions.IOStreams{Out: io.Discard, ErrOut: io.Discard})
	cmd := &cobra.Command{}
	o.AddFlags(cmd.PersistentFlags())
	if err := cmd.PersistentFlags().Set("kubeconfig", s.Kubeconfig(t)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := o.Follow(ctx, cli.Scope{}, []cli.Kind{cli.Nodes, cli.Pods}); err == nil || ctx.Err() != nil {
		t.Fatalf("error %v, want that pods may not be listed", err)
	}
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("the nodes are watched still")
	}
}

// SPDX-License-Identifier: Apache-2.0

package promtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/api"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"github.com/fogsched/fogsched/test/program"
)

const awaitTimeout = 30 * time.Second

// Options say what Prometheus to run.
type Options struct {
	Config
	// Dir is an existing folder for data, configuration and log, which stay in it. It must be set; a test gives t.TempDir().
	Dir string
	// History is what Prometheus has stored already when it starts, in the OpenMetrics text format: each sample with its time in
	// seconds, none of them in the future, "# EOF" at the end.
	History string
	// Args come last, so they win.
	Args []string
}

// Server is a running Prometheus. One that was killed and started again has what it stored, and has forgotten which series it had
// to mark as stale: what vanished meanwhile lingers for the five minutes that a query looks back.
type Server struct {
	*Child
	file string // its configuration
	api  promv1.API
}

// Start runs Prometheus and returns when it answers queries. The context bounds the start alone; Stop ends Prometheus. When the
// start fails nothing is left running, and the error ends with the last lines of the log.
func Start(ctx context.Context, opts Options) (*Server, error) {
	if opts.Dir == "" {
		return nil, errors.New("prometheus needs a folder for its data")
	}
	config, err := opts.render()
	if err != nil {
		return nil, fmt.Errorf("configuring Prometheus: %w", err)
	}
	child, err := newChild("prometheus", opts.Dir)
	if err != nil {
		return nil, err
	}
	s := &Server{Child: child, file: filepath.Join(child.dir, child.name+".yaml")}
	data := filepath.Join(child.dir, child.name+"-data")
	s.ready = s.answers("/-/ready")
	s.args = append([]string{
		"--config.file=" + s.file, "--storage.tsdb.path=" + data,
		"--web.listen-address=" + s.Address(), "--web.enable-lifecycle",
		// Targets are scraped at once, not 5 s after they were configured.
		"--scrape.discovery-reload-interval=10ms",
		"--log.level=warn",
	}, opts.Args...)

	client, err := api.NewClient(api.Config{Address: s.URL()})
	if err == nil {
		s.api = promv1.NewAPI(client)
		err = os.WriteFile(s.file, config, 0o600)
	}
	if err == nil && opts.History != "" {
		err = backfill(ctx, child, data, opts.History)
	}
	if err != nil {
		s.Stop()
		return nil, fmt.Errorf("configuring Prometheus: %w", err)
	}
	return s, s.start(ctx)
}

// backfill writes samples of the past into the folder of Prometheus' data, which need not exist.
func backfill(ctx context.Context, c *Child, data, openMetrics string) error {
	promtool, err := program.Path(filepath.Dir(c.bin), "promtool", "make bin/promtool")
	if err != nil {
		return err
	}
	file := filepath.Join(c.dir, c.name+".openmetrics")
	if err := os.WriteFile(file, []byte(openMetrics), 0o600); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, promtool, "tsdb", "create-blocks-from", "openmetrics", "--quiet", file, data).CombinedOutput()
	if err != nil {
		return fmt.Errorf("storing the history: %w\n%s", err, out)
	}
	return nil
}

// Reload gives Prometheus another configuration, and returns when it is in force. When Prometheus refuses it, the error says why,
// and the former one stays. The
// series of a target that is gone turn stale after about three intervals, those of a job that is gone do not: they linger for five
// minutes, as they always do with Prometheus.
func (s *Server) Reload(ctx context.Context, config Config) error {
	former, err := os.ReadFile(s.file)
	if err != nil {
		return fmt.Errorf("reloading Prometheus: %w", err)
	}
	text, err := config.render()
	if err == nil {
		err = os.WriteFile(s.file, text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("reloading Prometheus: %w", err)
	}
	if err := s.post(ctx, "/-/reload"); err != nil {
		return errors.Join(fmt.Errorf("reloading Prometheus: %w", err), os.WriteFile(s.file, former, 0o600))
	}
	return nil
}

func (s *Server) post(ctx context.Context, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL()+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(body)))
	}
	return nil
}

// Query returns what a query that has a vector for an answer yields now.
func (s *Server) Query(ctx context.Context, promQL string) (model.Vector, error) {
	value, _, err := s.api.Query(ctx, promQL, time.Time{})
	if err != nil {
		return nil, err
	}
	vector, ok := value.(model.Vector)
	if !ok {
		return nil, fmt.Errorf("the answer is a %s, not a vector", value.Type())
	}
	return vector, nil
}

// AwaitSeries waits until a query yields so many series, at most 30 s, and returns them. The error says what it saw last.
func (s *Server) AwaitSeries(ctx context.Context, promQL string, want int) (model.Vector, error) {
	return s.Await(ctx, promQL, func(got model.Vector) error {
		if len(got) != want {
			return fmt.Errorf("want %d series", want)
		}
		return nil
	})
}

// Await waits until a check of what a query yields returns nil, at most 30 s, and returns what it saw then. The error says what
// it saw last.
func (s *Server) Await(ctx context.Context, promQL string, check func(model.Vector) error) (model.Vector, error) {
	ctx, cancel := context.WithTimeout(ctx, awaitTimeout)
	defer cancel()
	var got model.Vector
	err := program.Poll(ctx, nil, func(ctx context.Context) error {
		var err error
		if got, err = s.Query(ctx, promQL); err != nil {
			return err
		}
		if err := check(got); err != nil {
			return fmt.Errorf("%w; there are %s", err, describe(got))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("waiting for %s: %w", promQL, err)
	}
	return got, nil
}

// describe names the first few series of a vector with their values.
func describe(v model.Vector) string {
	const most = 5
	var b strings.Builder
	fmt.Fprintf(&b, "%d series", len(v))
	for _, sample := range v[:min(most, len(v))] {
		fmt.Fprintf(&b, ", %s %v", sample.Metric, sample.Value)
	}
	if len(v) > most {
		b.WriteString(", …")
	}
	return b.String()
}

// SPDX-License-Identifier: Apache-2.0

package monitoring

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/fogsched/fogsched/test/cluster"
	"github.com/fogsched/fogsched/test/program"
	"github.com/fogsched/fogsched/test/promtest"
)

// patience is for what takes some seconds when it works; the machine may be busy.
const patience = 90 * time.Second

// world is a control plane with the overlay applied, fogprobes, a fogsched, and a Prometheus that scrapes them as the monitors say.
type world struct {
	*testing.T
	control    *cluster.Cluster
	prometheus *promtest.Server
	scheduler  *cluster.Scheduler
}

var nodes = []string{"edge-1", "edge-2", "edge-3", "edge-4"}

func TestOnRealPrograms(t *testing.T) {
	w := start(t)
	w.work()
	t.Run("every panel shows something", w.panels)
	t.Run("every alert can fire", w.alerts)
	t.Run("a typo is found", w.typos)
	t.Run("the tests of the alerts have the series that there are", w.inputs)
	t.Run("the documented metrics are those that there are", w.documented)
	t.Run("the token reads metrics and nothing else", w.token)
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) until(what string, check func(context.Context) error) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	defer cancel()
	if err := program.Poll(ctx, nil, check); err != nil {
		w.Fatalf("%s: %v", what, err)
	}
}

func start(t *testing.T) *world {
	w := &world{T: t}
	ctx, dir := t.Context(), t.TempDir()
	var err error
	w.control, err = cluster.Start(ctx, cluster.Options{})
	w.must(err)
	t.Cleanup(w.control.Stop)

	// The operator's kinds come first, as for a user.
	bin, err := program.BinDir()
	w.must(err)
	crds, err := program.Path(bin, "monitoring-crds.yaml", "make bin/monitoring-crds.yaml")
	w.must(err)
	definitions, err := os.ReadFile(crds)
	w.must(err)
	w.must(w.control.ApplyYAML(ctx, definitions))
	all := build(t)
	w.must(w.control.Apply(ctx, all...))
	w.must(w.control.Apply(ctx, all...)) // and once more, which changes nothing that Kubernetes filled in

	var add []cluster.Node
	for _, n := range nodes {
		add = append(add, cluster.Node{Name: n, Labels: map[string]string{corev1.LabelHostname: n, corev1.LabelTopologyZone: n[:4]}})
	}
	w.must(w.control.AddNodes(ctx, add...))

	probers := promtest.Job{Name: "fogprobe"}
	for i, n := range nodes {
		probers.Targets = append(probers.Targets, w.prober(dir, bin, i, n))
	}
	w.prometheus, err = promtest.Start(ctx, promtest.Options{Dir: dir, Config: promtest.Config{Jobs: []promtest.Job{probers}}})
	w.must(err)
	t.Cleanup(w.prometheus.Stop)

	kubeconfig, err := w.control.ServiceAccountKubeconfig(ctx, systemNamespace, "fogsched")
	w.must(err)
	w.scheduler, err = w.control.StartScheduler(ctx, cluster.SchedulerOptions{
		Name: "fogsched", Binary: "fogsched", Kubeconfig: kubeconfig, ConfigYAML: w.config(config(t, all)),
		GuardMetrics: true,
	})
	w.must(err)
	w.must(w.prometheus.Reload(ctx, promtest.Config{Jobs: []promtest.Job{probers, w.job(dir, find[monitor](t, all, "ServiceMonitor", "fogsched"))}}))
	return w
}

// prober starts the fogprobe of a node, and returns it as what the PodMonitor makes of it.
func (w *world) prober(dir, bin string, i int, node string) promtest.Target {
	path, err := program.Path(bin, "fogprobe", "make build")
	w.must(err)
	web, err := program.ReservePort()
	w.must(err)
	w.Cleanup(web.Release)
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	w.must(err)
	stamp := socket.LocalAddr().String()
	socket.Close()
	p, err := program.Start("fogprobe-"+node, path, dir, []string{
		"--node-name=" + node, "--listen=" + stamp, "--endpoint=" + stamp, "--peers=nodelatencies", "--interval=500ms",
		"--kubeconfig=" + w.control.KubeconfigPath(), "--http-address=" + web.Address(),
	})
	w.must(err)
	w.Cleanup(p.Kill)
	w.must(program.Poll(w.Context(), p, func(ctx context.Context) error {
		return program.Get(ctx, http.DefaultClient, "http://"+web.Address()+"/healthz")
	}))
	return promtest.Target{Address: web.Address(), Labels: map[string]string{
		"namespace": systemNamespace, "pod": fmt.Sprintf("fogprobe-%d", i), "container": "fogprobe", "node": node,
	}}
}

// config has the scheduler of the component prometheus ask our Prometheus, every second, and adds NodeMetrics.
func (w *world) config(shipped string) []byte {
	var c map[string]any
	w.must(yaml.UnmarshalStrict([]byte(shipped), &c))
	profile := c["profiles"].([]any)[0].(map[string]any)
	pluginConfig := profile["pluginConfig"].([]any)
	asked := pluginConfig[0].(map[string]any)["args"].(map[string]any)["prometheus"].(map[string]any)
	if asked["address"] != "http://prometheus.fogsched-system.svc:9090" {
		w.Fatalf("the component's scheduler asks %v, which is not its Service", asked["address"])
	}
	asked["address"], asked["interval"], asked["timeout"] = w.prometheus.URL(), "1s", "1s"
	enabled := profile["plugins"].(map[string]any)["multiPoint"].(map[string]any)
	enabled["enabled"] = append(enabled["enabled"].([]any), map[string]any{"name": "NodeMetrics"})
	profile["pluginConfig"] = append(pluginConfig, map[string]any{"name": "NodeMetrics", "args": map[string]any{
		"prometheus": map[string]any{"address": w.prometheus.URL(), "interval": "1s", "timeout": "1s"},
		"metrics":    []any{map[string]any{"name": "peers", "query": "fogsched_probe_peers", "nodeLabel": "node"}},
	}})
	b, err := yaml.Marshal(c)
	w.must(err)
	return b
}

// job is what the operator makes of the ServiceMonitor: the scheme, and the token from the Secret that Kubernetes filled in.
func (w *world) job(dir string, m *monitor) promtest.Job {
	e := m.Spec.Endpoints[0]
	file := filepath.Join(dir, "token")
	w.must(os.WriteFile(file, w.secret(e), 0o600))
	return promtest.Job{
		Name: "fogsched",
		Targets: []promtest.Target{{Address: w.scheduler.Address(), Labels: map[string]string{
			"namespace": systemNamespace, "pod": "fogsched-0", "container": "fogsched", "service": "fogsched", "endpoint": e.Port,
		}}},
		Extra: fmt.Sprintf("{scheme: %s, authorization: {credentials_file: %s}, tls_config: {insecure_skip_verify: %t}}", e.Scheme, file, e.TLSConfig.InsecureSkipVerify),
	}
}

func (w *world) secret(e endpoint) (token []byte) {
	from := e.Authorization.Credentials
	w.until("the token in Secret "+from.Name, func(ctx context.Context) error {
		s, err := w.control.Client().CoreV1().Secrets(systemNamespace).Get(ctx, from.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if token = s.Data[from.Key]; len(token) == 0 {
			return errors.New("it is not there yet")
		}
		return nil
	})
	return token
}

// work has the scheduler do what the panels show: pods with and without a chance, limits kept, broken and impossible.
func (w *world) work() {
	w.until("measured pairs", func(ctx context.Context) error {
		v, err := w.prometheus.Query(ctx, `fogsched_store_measured_pairs{job="fogsched"} == `+fmt.Sprint(len(nodes)*(len(nodes)-1)/2))
		if err == nil && len(v) == 0 {
			err = errors.New("not yet")
		}
		return err
	})
	policy := `
apiVersion: fogsched.dev/v1alpha1
kind: LatencyPolicy
metadata: {name: web, namespace: default}
spec: {selector: {matchLabels: {app: web}}, clients: [{nodes: {matchLabels: {kubernetes.io/hostname: edge-1}}, limit: 1s}]}`
	w.must(w.control.ApplyYAML(w.Context(), []byte(policy)))
	// Its own node is 50 µs away.
	tooNear := `{"dependencies":[{"nodes":{"matchLabels":{"kubernetes.io/hostname":"edge-2"}},"limit":"10us"}],"whenUnsatisfiable":"%s"}`
	w.pod("broken", fmt.Sprintf(tooNear, "ScheduleAnyway"))
	w.pod("impossible", fmt.Sprintf(tooNear, "DoNotSchedule"))
	// kube-scheduler times the plugins of one pod in ten. So there are more until it has met ours.
	more := 0
	w.until("the plugins to be timed", func(ctx context.Context) error {
		v, err := w.prometheus.Query(ctx, `count by (plugin) (scheduler_plugin_execution_duration_seconds_count{plugin=~"NodeLatency|NodeMetrics",extension_point="PreScore"})`)
		if err != nil {
			return err
		}
		if len(v) == 2 {
			return nil
		}
		if more < 300 {
			w.pod(fmt.Sprintf("web-%d", more), "")
			more++
		}
		return fmt.Errorf("%d of 2 plugins after %d pods", len(v), more)
	})
}

func (w *world) pod(name, annotation string) {
	w.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{SchedulerName: "fogsched", Containers: []corev1.Container{{Name: "c", Image: "none"}}},
	}
	if annotation != "" {
		p.Labels, p.Annotations = map[string]string{"app": name}, map[string]string{"fogsched.dev/latency": annotation}
	}
	_, err := w.control.Client().CoreV1().Pods("default").Create(w.Context(), p, metav1.CreateOptions{})
	w.must(err)
}

// dashboardFile is what we read of a Grafana dashboard.
type dashboardFile struct {
	SchemaVersion int    `json:"schemaVersion"`
	UID           string `json:"uid"`
	Panels        []struct {
		ID          int    `json:"id"`
		Type        string `json:"type"`
		Title       string `json:"title"`
		Description string `json:"description"`
		FieldConfig struct {
			Defaults struct {
				Unit string `json:"unit"`
			} `json:"defaults"`
		} `json:"fieldConfig"`
		Targets []struct {
			Expr         string `json:"expr"`
			LegendFormat string `json:"legendFormat"`
			Datasource   struct {
				UID string `json:"uid"`
			} `json:"datasource"`
		} `json:"targets"`
		Panels []any `json:"panels"`
	} `json:"panels"`
	Templating struct {
		List []struct {
			Name  string `json:"name"`
			Type  string `json:"type"`
			Query any    `json:"query"`
		} `json:"list"`
	} `json:"templating"`
}

// chosen is what a user has chosen in Grafana.
var chosen = strings.NewReplacer("$namespace", systemNamespace, "$node", ".*", "$__rate_interval", "1m")

var (
	placeholder = regexp.MustCompile(`{{ *(\w+) *}}`)
	labelValues = regexp.MustCompile(`^label_values\((.*), (\w+)\)$`)
)

func (w *world) panels(t *testing.T) {
	w = &world{T: t, control: w.control, prometheus: w.prometheus}
	var d dashboardFile
	w.must(json.Unmarshal(file(t, component+"/dashboard.json"), &d))
	if d.SchemaVersion > 39 || d.UID == "" {
		t.Errorf("schemaVersion %d is not that of Grafana 10, or there is no uid %q", d.SchemaVersion, d.UID)
	}
	variables := map[string]bool{}
	for _, v := range d.Templating.List {
		variables[v.Name] = true
		if v.Type != "query" {
			continue
		}
		text := chosen.Replace(v.Query.(map[string]any)["query"].(string))
		m := labelValues.FindStringSubmatch(text)
		if m == nil {
			t.Errorf("variable %s asks %s", v.Name, text)
			continue
		}
		w.shows("variable "+v.Name, m[1], []string{m[2]})
	}
	for _, want := range []string{"datasource", "namespace", "node"} {
		if !variables[want] {
			t.Errorf("there is no variable %s", want)
		}
	}
	page := string(file(t, "docs/monitoring.md"))
	ids, panels := map[int]bool{}, 0
	for _, p := range d.Panels {
		if p.ID == 0 || ids[p.ID] {
			t.Errorf("panel %q has the number %d of another", p.Title, p.ID)
		}
		ids[p.ID] = true
		if p.Type == "row" {
			if len(p.Panels) > 0 {
				t.Errorf("row %q has panels of its own, which are not looked at", p.Title)
			}
			continue
		}
		panels++
		if len(p.Description) < 60 || p.FieldConfig.Defaults.Unit == "" && p.Type != "stat" {
			t.Errorf("panel %q: unit %q, description %q", p.Title, p.FieldConfig.Defaults.Unit, p.Description)
		}
		if !strings.Contains(page, "| "+p.Title+" |") {
			t.Errorf("docs/monitoring.md has no row for the panel %q", p.Title)
		}
		if len(p.Targets) == 0 {
			t.Errorf("panel %q asks nothing", p.Title)
		}
		for _, target := range p.Targets {
			if target.Datasource.UID != "${datasource}" {
				t.Errorf("panel %q asks the data source %q", p.Title, target.Datasource.UID)
			}
			var labels []string
			for _, m := range placeholder.FindAllStringSubmatch(target.LegendFormat, -1) {
				labels = append(labels, m[1])
			}
			w.shows("panel "+p.Title, chosen.Replace(target.Expr), labels)
		}
	}
	t.Logf("%d panels", panels)
}

// shows fails where an expression yields no series within a while, or series without a label that is shown of them.
func (w *world) shows(what, expr string, labels []string) {
	w.Helper()
	if err := w.yields(expr, labels); err != nil {
		w.Errorf("%s: %v", what, err)
	}
}

func (w *world) yields(expr string, labels []string) error {
	if strings.Contains(expr, "$") {
		return fmt.Errorf("a variable that Grafana does not have: %s", expr)
	}
	ctx, cancel := context.WithTimeout(w.Context(), patience/2)
	defer cancel()
	var v model.Vector
	err := program.Poll(ctx, nil, func(ctx context.Context) error {
		// What there never was needs no waiting.
		if err := w.selectors(ctx, expr); err != nil {
			return err
		}
		var err error
		if v, err = w.prometheus.Query(ctx, expr); err == nil && len(v) == 0 {
			err = fmt.Errorf("no series: %s", expr)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, s := range v {
		for _, l := range labels {
			if s.Metric[model.LabelName(l)] == "" {
				return fmt.Errorf("%s has no label %s: %s", s.Metric, l, expr)
			}
		}
	}
	return nil
}

// selectors is an error where an expression does not parse, or a metric in it is none that Prometheus has with such labels. An unknown
// name is final.
func (w *world) selectors(ctx context.Context, expr string) error {
	for _, s := range w.parse(ctx, expr) {
		if s.err != nil {
			return program.Final(s.err)
		}
		v, err := w.prometheus.Query(ctx, s.text)
		if err != nil {
			return err
		}
		if len(v) > 0 {
			continue
		}
		err = fmt.Errorf("nothing is like %s in %s", s.text, expr)
		if named, _ := w.prometheus.Query(ctx, s.name); len(named) == 0 && !w.known(ctx, s.name) {
			return program.Final(fmt.Errorf("there is no metric %s in %s", s.name, expr))
		}
		return err
	}
	return nil
}

// known tells whether a scraped program has a metric, or a histogram whose series it is.
func (w *world) known(ctx context.Context, name string) bool {
	families, err := w.families(ctx)
	if err != nil {
		return false
	}
	for _, suffix := range []string{"", "_bucket", "_count", "_sum"} {
		if base, ok := strings.CutSuffix(name, suffix); ok && families[base] {
			return true
		}
	}
	return name == "up"
}

type selector struct {
	name, text string
	labels     []string
	err        error
}

// parse has Prometheus parse an expression and returns the selectors in it.
func (w *world) parse(ctx context.Context, expr string) (found []selector) {
	var tree any
	if err := w.get(ctx, "/api/v1/parse_query?query="+url.QueryEscape(expr), &tree); err != nil {
		return []selector{{err: fmt.Errorf("parsing %s: %w", expr, err)}}
	}
	var walk func(any)
	walk = func(node any) {
		switch n := node.(type) {
		case []any:
			for _, c := range n {
				walk(c)
			}
		case map[string]any:
			if kind := n["type"]; kind == "vectorSelector" || kind == "matrixSelector" {
				s := selector{name: n["name"].(string)}
				var matchers []string
				for _, m := range n["matchers"].([]any) {
					m := m.(map[string]any)
					matchers = append(matchers, fmt.Sprintf("%s%s%q", m["name"], m["type"], m["value"]))
					s.labels = append(s.labels, m["name"].(string))
				}
				s.text = "{" + strings.Join(matchers, ",") + "}"
				found = append(found, s)
				return
			}
			for _, c := range n {
				walk(c)
			}
		}
	}
	walk(tree)
	if len(found) == 0 {
		return []selector{{err: fmt.Errorf("%s asks for no metric", expr)}}
	}
	return found
}

// get asks Prometheus' HTTP API.
func (w *world) get(ctx context.Context, path string, data any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.prometheus.URL()+path, nil)
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
	answer := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("%s: %w", resp.Status, err)
	}
	if answer.Status != "success" {
		return errors.New(answer.Error)
	}
	return nil
}

// families returns the names of all metrics that were scraped.
func (w *world) families(ctx context.Context) (map[string]bool, error) {
	var metadata map[string]any
	if err := w.get(ctx, "/api/v1/metadata?limit_per_metric=1", &metadata); err != nil {
		return nil, err
	}
	all := map[string]bool{}
	for name := range metadata {
		all[name] = true
	}
	return all, nil
}

// alerts need a fault to fire; what they look at is there without.
func (w *world) alerts(t *testing.T) {
	w = &world{T: t, prometheus: w.prometheus}
	for _, r := range rules(t) {
		ctx, cancel := context.WithTimeout(t.Context(), patience/2)
		if err := program.Poll(ctx, nil, func(ctx context.Context) error { return w.selectors(ctx, r.Expr) }); err != nil {
			t.Errorf("%s: %v", r.Alert, err)
		}
		cancel()
	}
	// One of them has the fault that it needs: a pod that no node's distance is good for.
	i := slices.IndexFunc(rules(t), func(r rule) bool { return r.Alert == "FogschedPodsHeldByLimits" })
	w.shows("FogschedPodsHeldByLimits", rules(t)[i].Expr, []string{"namespace", "plugin"})
}

// typos shows that the checks above find them.
func (w *world) typos(t *testing.T) {
	w = &world{T: t, prometheus: w.prometheus}
	for expr, want := range map[string]string{
		`sum(rate(fogsched_probe_send_total[1m]))`:                                          "there is no metric fogsched_probe_send_total",
		`fogsched_store_nodes / fogsched_store_node > 1`:                                    "there is no metric fogsched_store_node in",
		`histogram_quantile(0.5, sum by (le) (rate(fogsched_probe_rtt_second_bucket[1m])))`: "there is no metric fogsched_probe_rtt_second_bucket",
		`sum by (node (fogsched_probe_peers)`:                                               "parse error",
		`vector(1)`:                                                                         "asks for no metric",
		`up{job="$job"}`:                                                                    "a variable that Grafana does not have",
	} {
		if err := w.yields(expr, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", expr, err, want)
		}
	}
	if err := w.yields("fogsched_store_nodes", []string{"zone"}); err == nil || !strings.Contains(err.Error(), "has no label zone") {
		t.Errorf("a legend with a label that is not there: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := w.selectors(ctx, `fogsched_nodelatency_decisions_total{result="nodata"}`); err == nil || !strings.Contains(err.Error(), "nothing is like") {
		t.Errorf("a label's value that is not there: %v", err)
	}
}

// inputs: a test of an alert proves little about a series that does not look like a real one.
func (w *world) inputs(t *testing.T) {
	w = &world{T: t, prometheus: w.prometheus}
	ctx := t.Context()
	seen := map[string]bool{}
	for name, f := range ruleTests(t) {
		for _, test := range f.Tests {
			for _, in := range test.InputSeries {
				for _, s := range w.parse(ctx, in.Series) {
					if s.err != nil {
						t.Fatalf("%s: %v", name, s.err)
					}
					slices.Sort(s.labels)
					key := s.name + " " + strings.Join(s.labels, " ")
					if seen[key] || strings.Contains(in.Series, `job="other"`) {
						continue
					}
					seen[key] = true
					v, err := w.prometheus.Query(ctx, s.name)
					w.must(err)
					if !slices.ContainsFunc(v, func(scraped *model.Sample) bool {
						return !slices.ContainsFunc(s.labels, func(l string) bool { return scraped.Metric[model.LabelName(l)] == "" })
					}) {
						t.Errorf("%s, %s: no real series of %s has all of the labels %v", name, test.Name, s.name, s.labels)
					}
				}
			}
		}
	}
	if len(seen) < 15 {
		t.Errorf("only %d kinds of series were compared", len(seen))
	}
}

// ofTheTarget are labels that Prometheus and the operator put onto every series, and those of quantiles.
var ofTheTarget = []string{"__name__", "job", "instance", "namespace", "pod", "container", "node", "service", "endpoint", "le"}

// documented compares what docs/monitoring.md lists with what the programs have, labels included.
func (w *world) documented(t *testing.T) {
	w = &world{T: t, prometheus: w.prometheus}
	ctx := t.Context()
	scraped, err := w.families(ctx)
	w.must(err)
	page := string(file(t, "docs/monitoring.md"))
	listed := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(fogsched_[a-z0-9_]+)(?:{([a-z_, ]+)})?` \\|").FindAllStringSubmatch(page, -1) {
		listed[m[1]] = m[2]
	}
	for _, name := range slices.Sorted(maps.Keys(scraped)) {
		if _, ok := listed[name]; !ok && strings.HasPrefix(name, "fogsched_") {
			t.Errorf("docs/monitoring.md does not list %s", name)
		}
	}
	for name, labels := range listed {
		if !scraped[name] {
			t.Errorf("docs/monitoring.md lists %s, which no program has", name)
			continue
		}
		v, err := w.prometheus.Query(ctx, fmt.Sprintf("{__name__=~%q}", name+"(_count)?"))
		w.must(err)
		if len(v) == 0 {
			continue
		}
		got := map[string]bool{}
		for _, s := range v {
			for l := range s.Metric {
				if !slices.Contains(ofTheTarget, string(l)) {
					got[string(l)] = true
				}
			}
		}
		want := map[string]bool{}
		for _, l := range strings.FieldsFunc(labels, func(r rune) bool { return r == ',' || r == ' ' }) {
			want[l] = true
		}
		for l := range got {
			if !want[l] {
				t.Errorf("docs/monitoring.md does not list the label %s of %s", l, name)
			}
		}
		for l := range want {
			if !got[l] && l != "source_zone" && l != "dest_zone" { // empty without zones
				t.Errorf("docs/monitoring.md lists the label %s of %s, which no series has", l, name)
			}
		}
	}
}

func (w *world) token(t *testing.T) {
	w = &world{T: t, control: w.control, scheduler: w.scheduler}
	ctx := t.Context()
	if _, err := w.scheduler.Metrics(ctx); err == nil || !strings.Contains(err.Error(), "403 Forbidden") {
		t.Errorf("the scheduler's metrics without a token: %v, want 403", err)
	}
	const user = "system:serviceaccount:" + systemNamespace + ":fogsched-metrics-reader"
	for _, tt := range []struct {
		spec authorizationv1.SubjectAccessReviewSpec
		want bool
	}{
		{authorizationv1.SubjectAccessReviewSpec{NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: "/metrics", Verb: "get"}}, true},
		{authorizationv1.SubjectAccessReviewSpec{NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: "/metrics", Verb: "post"}}, false},
		{authorizationv1.SubjectAccessReviewSpec{NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: "/configz", Verb: "get"}}, false},
		{authorizationv1.SubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "list", Resource: "pods"}}, false},
		{authorizationv1.SubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "get", Resource: "secrets", Namespace: systemNamespace}}, false},
		{authorizationv1.SubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "get", Resource: "nodes", Subresource: "metrics"}}, false},
	} {
		tt.spec.User = user
		tt.spec.Groups = []string{"system:serviceaccounts", "system:serviceaccounts:" + systemNamespace, "system:authenticated"}
		got, err := w.control.Client().AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: tt.spec}, metav1.CreateOptions{})
		w.must(err)
		if got.Status.Allowed != tt.want {
			t.Errorf("%+v %+v is allowed: %t, want %t", tt.spec.NonResourceAttributes, tt.spec.ResourceAttributes, got.Status.Allowed, tt.want)
		}
	}
}

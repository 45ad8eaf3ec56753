// SPDX-License-Identifier: Apache-2.0

package prometheus

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// own is a query that is right.
func own() Latencies {
	return Latencies{Name: "mesh", Typical: `rtt_ms{q="0.5"}`, Unit: "ms", Source: "from", Target: "to"}
}

func with(change func(*Latencies)) Latencies {
	l := own()
	change(&l)
	return l
}

func TestValidateLatencies(t *testing.T) {
	tests := map[string]struct {
		list []Latencies
		want []string // each is a part of one error, in this order; none: valid
	}{
		"a preset": {list: []Latencies{{Preset: "fogprobe"}}},
		"all presets": {list: func() (all []Latencies) {
			for _, name := range PresetNames() {
				all = append(all, Latencies{Preset: name})
			}
			return all
		}()},
		"a query":                      {list: []Latencies{own()}},
		"a preset with another label":  {list: []Latencies{{Preset: "ping_exporter", Source: "node"}}},
		"a preset with another name":   {list: []Latencies{{Preset: "fogprobe"}, {Preset: "fogprobe", Name: "edge"}}},
		"a selector with braces in it": {list: []Latencies{with(func(l *Latencies) { l.Typical = "rtt{a=\"}\\\"{\",b='}', c=`}`} " })}},
		"a selector without a name":    {list: []Latencies{with(func(l *Latencies) { l.Typical = `{__name__=~"rtt|latency"}` })}},
		"one label for both ends":      {list: []Latencies{with(func(l *Latencies) { l.Target, l.SourceRegexp = "from", "^(.*)-" })}},
		"nothing": {
			list: []Latencies{{}},
			want: []string{
				"latencies[0].name: Required value: what metrics and logs call it, since no preset is given", "latencies[0].typical: Required value: the PromQL of the median RTT",
				"latencies[0].unit: Required value: s, ms, us or ns", "latencies[0].source: Required", "latencies[0].target: Required",
			},
		},
		"a preset that is none":         {[]Latencies{{Preset: "fogprob"}}, []string{`latencies[0].preset: Unsupported value: "fogprob": supported values: "blackbox_exporter", "cilium"`}},
		"the same name twice":           {[]Latencies{{Preset: "fogprobe"}, {Preset: "fogprobe"}}, []string{`latencies[1].name: Invalid value: "fogprobe": is another one's name: give each its own`}},
		"a name with a space":           {[]Latencies{with(func(l *Latencies) { l.Name = "My mesh" })}, []string{`latencies[0].name: Invalid value: "My mesh": must be lower-case letters`}},
		"a name that is too long":       {[]Latencies{with(func(l *Latencies) { l.Name = strings.Repeat("a", 64) })}, []string{"at most 63 long"}},
		"the name of the objects":       {[]Latencies{with(func(l *Latencies) { l.Name = "nodelatency" })}, []string{"is the name of the NodeLatency objects"}},
		"a unit that is none":           {[]Latencies{with(func(l *Latencies) { l.Unit = "sec" })}, []string{`latencies[0].unit: Unsupported value: "sec": supported values: "s", "ms", "us", "ns"`}},
		"a unit that is a minute":       {[]Latencies{with(func(l *Latencies) { l.Unit = "m" })}, []string{"latencies[0].unit: Unsupported"}},
		"a label that is PromQL":        {[]Latencies{with(func(l *Latencies) { l.Source = `from="a"` })}, []string{"latencies[0].source: Invalid value", "must be the name of one label"}[:1]},
		"both ends by the same label":   {[]Latencies{with(func(l *Latencies) { l.Target = "from" })}, []string{`latencies[0].target: Invalid value: "from": is source, too`}},
		"no regular expression":         {[]Latencies{with(func(l *Latencies) { l.SourceRegexp = "(a" })}, []string{"latencies[0].sourceRegexp: Invalid value: \"(a\": must be a regular expression as RE2 reads it: missing closing )"}},
		"an expression of another kind": {[]Latencies{with(func(l *Latencies) { l.TargetRegexp = `(?=a)(b)` })}, []string{"latencies[0].targetRegexp: Invalid value"}},
		"an expression without a group": {[]Latencies{with(func(l *Latencies) { l.TargetRegexp = "^path_.+$" })}, []string{"must have a group, as in ^path_(.+)$"}},
		"a blank query":                 {[]Latencies{with(func(l *Latencies) { l.Tail = " \n" })}, []string{"latencies[0].tail: Invalid value: \" \\n\": is blank"}},
		"a query that is a book":        {[]Latencies{with(func(l *Latencies) { l.Failed = strings.Repeat("a", MaxQueryBytes+1) })}, []string{"latencies[0].failed: Too long"}},
		"an expression without a time": {
			[]Latencies{with(func(l *Latencies) { l.Typical = "histogram_quantile(0.5, rate(rtt_bucket[5m]))" })},
			[]string{"latencies[0].time: Required value: typical is more than a plain selector"},
		},
		"a comparison without a time": {[]Latencies{with(func(l *Latencies) { l.Typical = `rtt{a="b"} > 0` })}, []string{"latencies[0].time: Required"}},
		"an expression with a time":   {list: []Latencies{with(func(l *Latencies) { l.Typical, l.Time = "rtt > 0", "timestamp(rtt)" })}},
		"all at once": {
			[]Latencies{{Name: "X", Typical: "a + b", Unit: "h", Source: "a b", Target: "", SourceRegexp: "x"}, {Preset: "nobody", Unit: "h"}},
			[]string{
				"latencies[0].target: Required", "latencies[0].name: Invalid", "latencies[0].unit: Unsupported", "latencies[0].time: Required", "latencies[0].source: Invalid",
				"latencies[0].sourceRegexp: Invalid", "latencies[1].preset: Unsupported", "latencies[1].unit: Unsupported",
			},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := ValidateLatencies(field.NewPath("latencies"), tt.list)
			if len(got) != len(tt.want) {
				t.Fatalf("got %d errors, want %d: %v", len(got), len(tt.want), got)
			}
			for i := range got {
				if !strings.Contains(got[i].Error(), tt.want[i]) {
					t.Errorf("error %d is %q, want %q in it", i, got[i].Error(), tt.want[i])
				}
			}
		})
	}
}

func TestOverride(t *testing.T) {
	l := Latencies{Preset: "ping_exporter", Source: "node", Typical: "ping_rtt_mean_ms", Unit: "ms", Failed: "ping_loss_percent == bool 1"}
	q, err := l.questions()
	if err != nil {
		t.Fatal(err)
	}
	want := Latencies{
		Preset: "ping_exporter", Name: "ping_exporter", Source: "node", Target: "ip", Typical: "ping_rtt_mean_ms", Unit: "ms",
		Failed: "ping_loss_percent == bool 1", Time: "timestamp(ping_rtt_mean_ms\n)",
	}
	if diff := cmp.Diff(want, q.Latencies); diff != "" {
		t.Errorf("questions (-want +got):\n%s", diff)
	}
	// What is no RTT cannot be declared one.
	var k Latencies
	if err := json.Unmarshal([]byte(`{"preset":"kube-latency","rankingOnly":false}`), &k); err != nil {
		t.Fatal(err)
	}
	if q, err := k.questions(); err != nil || !q.RankingOnly {
		t.Errorf("kube-latency with rankingOnly false: %+v, %v; want a ranking", q, err)
	}
}

func TestPresetsSayWhatTheyNeed(t *testing.T) {
	for _, name := range PresetNames() {
		p, ok := FindPreset(name)
		if !ok || p.Notes == "" || p.Preset != "" || p.Name != "" {
			t.Errorf("preset %s: found %v, notes %q; want notes, and no name or preset of its own", name, ok, p.Notes)
		}
		if (p.Refuse == "") != (p.RefuseReason == "") {
			t.Errorf("preset %s refuses without a reason, or has a reason and nothing to refuse", name)
		}
		if p.Failed == "" {
			t.Errorf("preset %s knows no failure", name)
		}
		if p.Tail == "" && !strings.Contains(p.Notes, "no 95th percentile") && !p.RankingOnly {
			t.Errorf("preset %s has no tail and does not say so", name)
		}
	}
	want := []string{"blackbox_exporter", "cilium", "cloudprober", "fogprobe", "goldpinger", "kconmon", "kube-latency", "kubenurse", "netperf", "ping_exporter", "smokeping_prober"}
	if diff := cmp.Diff(want, PresetNames()); diff != "" {
		t.Errorf("presets (-want +got):\n%s", diff)
	}
	doc, err := os.ReadFile("latencies.go")
	if err != nil {
		t.Fatal(err)
	}
	comment := regexp.MustCompile(`(?s)// Preset is the prober's name: (.*?)\.\s`).FindSubmatch(doc)
	listed := regexp.MustCompile(`[a-z_-]{5,}`).FindAllString(strings.ReplaceAll(string(comment[1]), "//", ""), -1)
	slices.Sort(listed)
	if diff := cmp.Diff(want, listed); diff != "" {
		t.Errorf("the comment lists other presets (-want +got):\n%s", diff)
	}
}

func TestValidateConfig(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "token")
	if err := os.WriteFile(file, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := func(change func(*Config)) *Config {
		c := &Config{Address: "http://prometheus.monitoring:9090"}
		change(c)
		c.Default()
		return c
	}
	seconds := func(n float64) metav1.Duration {
		return metav1.Duration{Duration: time.Duration(n * float64(time.Second))}
	}
	tests := map[string]struct {
		config *Config
		want   []string
	}{
		"an address alone":              {good(func(*Config) {}), nil},
		"a path":                        {good(func(c *Config) { c.Address = "https://thanos.example/tenant/1" }), nil},
		"no address":                    {good(func(c *Config) { c.Address = "" }), []string{"prometheus.address: Required value: the URL"}},
		"an address without a scheme":   {good(func(c *Config) { c.Address = "prometheus:9090" }), []string{"must be a URL, as in http://prometheus.monitoring:9090"}},
		"a user in the address":         {good(func(c *Config) { c.Address = "https://me:secret@prometheus" }), []string{"must not hold a user; use tokenFile"}},
		"a user in what is no URL":      {good(func(c *Config) { c.Address = "https://me:secret%t@prometheus" }), []string{"must not hold a user; use tokenFile"}},
		"a user and no scheme":          {good(func(c *Config) { c.Address = "me:secret@prometheus:9090" }), []string{"must not hold a user; use tokenFile"}},
		"an @ in the path":              {good(func(c *Config) { c.Address = "https://thanos.example/@tenant" }), nil},
		"a query in the address":        {good(func(c *Config) { c.Address = "http://prometheus?token=secret" }), []string{"must have no query"}},
		"no token for plain http":       {good(func(c *Config) { c.AllowTokenOverHTTP = true }), []string{"prometheus.tokenFile: Required value: allowTokenOverHTTP is about its token"}},
		"a token over http":             {good(func(c *Config) { c.TokenFile = file }), []string{"must be https, since tokenFile is set; allowTokenOverHTTP: true sends the token without TLS"}},
		"a token over http, on purpose": {good(func(c *Config) { c.TokenFile, c.AllowTokenOverHTTP = file, true }), nil},
		"a token over https":            {good(func(c *Config) { c.Address, c.TokenFile = "https://prometheus", file }), nil},
		"certificates for http":         {good(func(c *Config) { c.ServerName = "x" }), []string{"must be https, since caFile"}},
		"half a client certificate":     {good(func(c *Config) { c.Address, c.CertFile = "https://p", file }), []string{"certFile and keyFile need each other"}},
		"a file that is not there":      {good(func(c *Config) { c.Address, c.TokenFile = "https://p", dir+"/none" }), []string{"prometheus.tokenFile: Invalid value"}},
		"a CA file that is none":        {good(func(c *Config) { c.Address, c.CAFile = "https://p", file }), []string{"prometheus: Invalid value"}},
		"an interval of nothing":        {good(func(c *Config) { c.Interval = seconds(0.5) }), []string{"prometheus.interval: Invalid value: \"500ms\": must be 1s to 1h"}},
		"a timeout above the interval":  {good(func(c *Config) { c.Interval, c.Timeout = seconds(5), seconds(6) }), []string{"prometheus.timeout: Invalid value: \"6s\": must be at most the interval, 5s"}},
		"an age below the interval":     {good(func(c *Config) { c.Interval, c.MaxAge = seconds(60), seconds(30) }), []string{"prometheus.maxAge: Invalid value: \"30s\": must be at least the interval, 1m0s"}},
		"negative times":                {good(func(c *Config) { c.Interval, c.Timeout, c.MaxAge = seconds(-1), seconds(-1), seconds(-1) }), []string{"interval", "timeout", "maxAge"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := tt.config.Validate(field.NewPath("prometheus"))
			if len(got) != len(tt.want) {
				t.Fatalf("got %d errors, want %d: %v", len(got), len(tt.want), got)
			}
			for i := range got {
				if !strings.Contains(got[i].Error(), tt.want[i]) {
					t.Errorf("error %d is %q, want %q in it", i, got[i].Error(), tt.want[i])
				}
				if strings.Contains(got[i].Error(), "secret") {
					t.Errorf("error %d shows a secret: %s", i, got[i])
				}
			}
		})
	}
}

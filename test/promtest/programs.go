// SPDX-License-Identifier: Apache-2.0

package promtest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/fogsched/fogsched/test/program"
)

// BlackboxModules is a configuration of blackbox_exporter with the modules tcp, http and icmp, which probe by IPv4 and give up
// after a second. The last needs root, or ping sockets that net.ipv4.ping_group_range allows.
const BlackboxModules = `
modules:
  tcp: {prober: tcp, timeout: 1s, tcp: {preferred_ip_protocol: ip4}}
  http: {prober: http, timeout: 1s, http: {preferred_ip_protocol: ip4}}
  icmp: {prober: icmp, timeout: 1s, icmp: {preferred_ip_protocol: ip4}}
`

// StartNodeExporter runs node_exporter, with the files in the existing folder dir, and returns when it serves. All of them measure
// this machine.
func StartNodeExporter(ctx context.Context, dir string, args ...string) (*Child, error) {
	c, err := newChild("node_exporter", dir)
	if err != nil {
		return nil, err
	}
	c.ready = c.answers("/metrics")
	c.args = append([]string{"--web.listen-address=" + c.Address(), "--log.level=warn"}, args...)
	if err := c.start(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// StartBlackbox runs blackbox_exporter on a configuration, BlackboxModules where it is empty, with the files in the existing folder
// dir, and returns when it serves.
func StartBlackbox(ctx context.Context, dir, config string, args ...string) (*Child, error) {
	if config == "" {
		config = BlackboxModules
	}
	c, err := newChild("blackbox_exporter", dir)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(c.dir, c.name+".yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		c.Stop()
		return nil, fmt.Errorf("configuring blackbox_exporter: %w", err)
	}
	c.ready = c.answers("/-/healthy")
	c.args = append([]string{"--config.file=" + file, "--web.listen-address=" + c.Address(), "--log.level=warn"}, args...)
	if err := c.start(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// StartSmokeping runs smokeping_prober, which pings the hosts every 200 ms, with the files in the existing folder dir. It returns
// when each host was sent a ping: where it may send none, smokeping_prober serves zeros and does not complain. As root it uses raw
// sockets, else ping sockets, which net.ipv4.ping_group_range must allow.
func StartSmokeping(ctx context.Context, dir string, hosts []string, args ...string) (*Child, error) {
	c, err := newChild("smokeping_prober", dir)
	if err != nil {
		return nil, err
	}
	privileged := "--no-privileged"
	if os.Geteuid() == 0 {
		privileged = "--privileged"
	}
	c.ready = func(ctx context.Context) error { return c.pingsEveryHost(ctx, len(hosts)) }
	c.args = append([]string{
		"--config.file=", "--web.listen-address=" + c.Address(), "--log.level=warn",
		"--ping.interval=200ms", privileged,
	}, args...)
	c.args = append(c.args, hosts...)
	if err := c.start(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Child) pingsEveryHost(ctx context.Context, hosts int) error {
	const requests = "smokeping_requests_total"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL()+"/metrics", nil)
	if err != nil {
		return program.Final(err)
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
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(string(body)))
	if err != nil {
		return err
	}
	pinged := 0
	for _, m := range families[requests].GetMetric() {
		if m.GetCounter().GetValue() > 0 {
			pinged++
		}
	}
	if pinged < hosts {
		return fmt.Errorf("smokeping_prober has pinged %d of %d hosts; may it?", pinged, hosts)
	}
	return nil
}

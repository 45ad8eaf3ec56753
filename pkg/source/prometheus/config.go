// SPDX-License-Identifier: Apache-2.0

// Package prometheus asks Prometheus: for latencies between nodes, measured by whatever prober a cluster has, and for values of
// nodes. What it cannot ask for, read, or join to a node stays unknown.
package prometheus

import (
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/prometheus/common/config"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Config says where a Prometheus is and how to ask it.
type Config struct {
	// Address is the URL of the Prometheus, or of anything that speaks its HTTP API (Thanos, Mimir, VictoriaMetrics), as in
	// http://prometheus.monitoring:9090. A path is kept, a query is not allowed.
	Address string `json:"address"`

	// CAFile is the path of the certificates, in PEM, that the server's certificate is checked against. Default: the system's.
	CAFile string `json:"caFile,omitempty"`
	// CertFile and KeyFile are the paths of a client certificate and its key, in PEM. Default: none.
	CertFile string `json:"certFile,omitempty"`
	KeyFile  string `json:"keyFile,omitempty"`
	// ServerName is the name in the server's certificate, where it is not the address's host.
	ServerName string `json:"serverName,omitempty"`

	// TokenFile is the path of a bearer token. This file, like the ones above, is read again when it changed.
	TokenFile string `json:"tokenFile,omitempty"`
	// AllowTokenOverHTTP sends the token to an address without TLS, where everybody on the way can read it. Default false.
	AllowTokenOverHTTP bool `json:"allowTokenOverHTTP,omitempty"`

	// Interval is the time between two rounds of queries, 1s to 1h. Default 30s.
	Interval metav1.Duration `json:"interval,omitempty"`
	// Timeout bounds each query, from connecting to the last byte of the answer, 100ms to 5m, at most the interval.
	// Default 10s, or the interval where that is shorter.
	Timeout metav1.Duration `json:"timeout,omitempty"`
	// MaxAge is how old what a value rests on may be, by the value's own time, 10s to 24h, at least the interval. Default 5m.
	MaxAge metav1.Duration `json:"maxAge,omitempty"`
}

const (
	defaultInterval = 30 * time.Second
	defaultTimeout  = 10 * time.Second
	defaultMaxAge   = 5 * time.Minute
)

// Default sets what is not set.
func (c *Config) Default() {
	if c.Interval.Duration == 0 {
		c.Interval.Duration = defaultInterval
	}
	if c.Timeout.Duration == 0 {
		c.Timeout.Duration = max(min(defaultTimeout, c.Interval.Duration), 0)
	}
	if c.MaxAge.Duration == 0 {
		c.MaxAge.Duration = max(defaultMaxAge, c.Interval.Duration)
	}
}

// Validate returns what is wrong with a configuration whose defaults are set. It looks at the files, too.
func (c *Config) Validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	u, err := url.Parse(c.Address)
	switch at := path.Child("address"); {
	case c.Address == "":
		errs = append(errs, field.Required(at, "the URL of the Prometheus, as in http://prometheus.monitoring:9090"))
	case err == nil && u.User != nil, (err != nil || u.Host == "") && strings.Contains(c.Address, "@"): // nor is a password shown where it is no URL
		errs = append(errs, field.Invalid(at, "…@"+c.Address[strings.LastIndex(c.Address, "@")+1:], "must not hold a user; use tokenFile"))
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		errs = append(errs, field.Invalid(at, c.Address, "must be a URL, as in http://prometheus.monitoring:9090"))
	case u.RawQuery != "" || u.Fragment != "":
		errs = append(errs, field.Invalid(at, u.Scheme+"://"+u.Host+u.Path, "must have no query and no fragment"))
	case u.Scheme == "http" && c.TokenFile != "" && !c.AllowTokenOverHTTP:
		errs = append(errs, field.Invalid(at, c.Address, "must be https, since tokenFile is set; allowTokenOverHTTP: true sends the token without TLS"))
	case u.Scheme == "http" && (c.CAFile != "" || c.CertFile != "" || c.KeyFile != "" || c.ServerName != ""):
		errs = append(errs, field.Invalid(at, c.Address, "must be https, since caFile, certFile, keyFile or serverName is set"))
	}
	if c.AllowTokenOverHTTP && c.TokenFile == "" {
		errs = append(errs, field.Required(path.Child("tokenFile"), "allowTokenOverHTTP is about its token"))
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		errs = append(errs, field.Invalid(path.Child("certFile"), c.CertFile, "certFile and keyFile need each other"))
	}
	for _, f := range []struct{ name, path string }{
		{"caFile", c.CAFile}, {"certFile", c.CertFile}, {"keyFile", c.KeyFile}, {"tokenFile", c.TokenFile},
	} {
		if f.path == "" {
			continue
		}
		if _, err := os.ReadFile(f.path); err != nil {
			errs = append(errs, field.Invalid(path.Child(f.name), f.path, err.Error()))
		}
	}
	errs = append(errs, within(path.Child("interval"), c.Interval, time.Second, time.Hour)...)
	errs = append(errs, within(path.Child("timeout"), c.Timeout, 100*time.Millisecond, 5*time.Minute)...)
	errs = append(errs, within(path.Child("maxAge"), c.MaxAge, 10*time.Second, 24*time.Hour)...)
	if len(errs) == 0 && c.Timeout.Duration > c.Interval.Duration {
		errs = append(errs, field.Invalid(path.Child("timeout"), c.Timeout.Duration.String(), fmt.Sprintf("must be at most the interval, %s", c.Interval.Duration)))
	}
	if len(errs) == 0 && c.MaxAge.Duration < c.Interval.Duration {
		errs = append(errs, field.Invalid(path.Child("maxAge"), c.MaxAge.Duration.String(), fmt.Sprintf("must be at least the interval, %s", c.Interval.Duration)))
	}
	if len(errs) == 0 {
		if _, err := NewClient(c); err != nil {
			errs = append(errs, field.Invalid(path, c.Address, err.Error()))
		}
	}
	return errs
}

func within(path *field.Path, d metav1.Duration, least, most time.Duration) field.ErrorList {
	if d.Duration < least || d.Duration > most {
		return field.ErrorList{field.Invalid(path, d.Duration.String(), fmt.Sprintf("must be %s to %s", short(least), short(most)))}
	}
	return nil
}

// short writes 1h0m0s as 1h.
func short(d time.Duration) string {
	switch {
	case d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d%time.Minute == 0:
		return fmt.Sprintf("%dm", d/time.Minute)
	default:
		return d.String()
	}
}

// http returns the configuration of the HTTP client that Prometheus' own programs have: it reads the files again when they changed.
func (c *Config) http() config.HTTPClientConfig {
	h := config.HTTPClientConfig{
		TLSConfig: config.TLSConfig{
			CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile, ServerName: c.ServerName, MinVersion: config.TLSVersions["TLS12"],
		},
	}
	if c.TokenFile != "" {
		h.Authorization = &config.Authorization{Type: "Bearer", CredentialsFile: c.TokenFile}
	}
	return h
}

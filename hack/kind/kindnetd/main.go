// SPDX-License-Identifier: Apache-2.0

// Command kindnetd is a small stand-in for kind's CNI helper of that name: it writes the node's CNI configuration (ptp,
// host-local, portmap), keeps a route to the pods of every other node, and masquerades what leaves the cluster. IPv4 only,
// and no NetworkPolicy. It polls the API server with the standard library alone, so that it builds in seconds.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	account  = "/var/run/secrets/kubernetes.io/serviceaccount"
	cniFile  = "/etc/cni/net.d/10-kindnet.conflist"
	chain    = "KIND-MASQ-AGENT"
	interval = 3 * time.Second
)

type node struct {
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		PodCIDR string `json:"podCIDR"`
	} `json:"spec"`
	Status struct {
		Addresses []struct {
			Type    string `json:"type"`
			Address string `json:"address"`
		} `json:"addresses"`
	} `json:"status"`
}

func (n node) internalIP() string {
	for _, a := range n.Status.Addresses {
		if a.Type == "InternalIP" {
			return a.Address
		}
	}
	return ""
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	h := helper{
		endpoint:  os.Getenv("CONTROL_PLANE_ENDPOINT"),
		hostIP:    os.Getenv("HOST_IP"),
		podSubnet: os.Getenv("POD_SUBNET"),
		routes:    map[string]string{},
	}
	if h.endpoint == "" || h.hostIP == "" || h.podSubnet == "" {
		fmt.Fprintln(os.Stderr, "kindnetd: CONTROL_PLANE_ENDPOINT, HOST_IP and POD_SUBNET must be set")
		os.Exit(2)
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	last := ""
	for {
		// An API server that is away changes no routes.
		message := ""
		if err := h.sync(ctx); err != nil {
			message = err.Error()
		}
		if message != last {
			fmt.Fprintln(os.Stderr, "kindnetd:", or(message, "in step with the API server"))
			last = message
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

type helper struct {
	endpoint, hostIP, podSubnet string
	client                      *http.Client
	// routes maps the pod range of another node to the address of that node.
	routes  map[string]string
	masked  bool
	written string
}

func (h *helper) sync(ctx context.Context) error {
	nodes, err := h.nodes(ctx)
	if err != nil {
		return err
	}
	// First the routes, then the configuration: it is what makes the node Ready.
	wanted := map[string]string{}
	own := ""
	for _, n := range nodes {
		ip := n.internalIP()
		switch {
		case n.Spec.PodCIDR == "" || ip == "" || strings.Contains(ip, ":"):
		case ip == h.hostIP:
			own = n.Spec.PodCIDR
		default:
			wanted[n.Spec.PodCIDR] = ip
		}
	}
	var errs []error
	for cidr, ip := range wanted {
		if h.routes[cidr] == ip {
			continue
		}
		if err := run("ip", "route", "replace", cidr, "via", ip); err != nil {
			errs = append(errs, err)
			continue
		}
		h.routes[cidr] = ip
	}
	for cidr := range h.routes {
		if wanted[cidr] == "" {
			errs = append(errs, run("ip", "route", "del", cidr))
			delete(h.routes, cidr)
		}
	}
	if !h.masked {
		err := h.masquerade()
		h.masked = err == nil
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if own == "" {
		return fmt.Errorf("the node with the address %s has no podCIDR yet", h.hostIP)
	}
	if own == h.written {
		return nil
	}
	if err := writeConfig(own); err != nil {
		return err
	}
	h.written = own
	return nil
}

func (h *helper) nodes(ctx context.Context) ([]node, error) {
	if h.client == nil {
		ca, err := os.ReadFile(filepath.Join(account, "ca.crt"))
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(ca)
		h.client = &http.Client{
			Timeout:   10 * time.Second,
			Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}},
		}
	}
	// The kubelet renews the token's file.
	token, err := os.ReadFile(filepath.Join(account, "token"))
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+h.endpoint+"/api/v1/nodes?resourceVersion=0", nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+string(token))
	response, err := h.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("list nodes: %s", response.Status)
	}
	var list struct {
		Items []node `json:"items"`
	}
	if err := json.NewDecoder(response.Body).Decode(&list); err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	return list.Items, nil
}

// masquerade gives what pods send out of the cluster the node's address.
func (h *helper) masquerade() error {
	_ = run("iptables", "-w", "-t", "nat", "-N", chain)
	for _, rule := range [][]string{
		{chain, "-d", h.podSubnet, "-j", "RETURN"},
		{chain, "-j", "MASQUERADE"},
		{"POSTROUTING", "-m", "addrtype", "!", "--dst-type", "LOCAL", "-s", h.podSubnet, "-j", chain},
	} {
		if run("iptables", append([]string{"-w", "-t", "nat", "-C"}, rule...)...) == nil {
			continue
		}
		if err := run("iptables", append([]string{"-w", "-t", "nat", "-A"}, rule...)...); err != nil {
			return err
		}
	}
	return nil
}

func writeConfig(podCIDR string) error {
	config := map[string]any{
		"cniVersion": "0.3.1",
		"name":       "kindnet",
		"plugins": []any{
			map[string]any{
				"type":   "ptp",
				"ipMasq": false,
				"ipam": map[string]any{
					"type":    "host-local",
					"dataDir": "/run/cni-ipam-state",
					"routes":  []any{map[string]any{"dst": "0.0.0.0/0"}},
					"ranges":  []any{[]any{map[string]any{"subnet": podCIDR}}},
				},
			},
			map[string]any{"type": "portmap", "capabilities": map[string]any{"portMappings": true}},
		},
	}
	data, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return err
	}
	// containerd reads whatever stands in the folder, so the file appears whole or not at all.
	temporary := cniFile + ".temp"
	if err := os.WriteFile(temporary, data, 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, cniFile)
}

func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

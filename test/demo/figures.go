// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fogsched/fogsched/pkg/probe"
	"github.com/fogsched/fogsched/test/wan"
)

const (
	probesPerPair = 40
	probeTimeout  = time.Second
	redisLimit    = 20 * time.Millisecond
)

// trips are the round trips that were measured between two nodes after the placement, apart from what the scheduler knew.
type trips []time.Duration

func (t trips) median() time.Duration { return t.percentile(50) }

// percentile returns the p-th percentile by nearest rank; 0 where nothing came back.
func (t trips) percentile(p int) time.Duration {
	if len(t) == 0 {
		return 0
	}
	s := slices.Clone(t)
	slices.Sort(s)
	return s[max(0, (len(s)*p+99)/100-1)]
}

func (t trips) mean() time.Duration {
	if len(t) == 0 {
		return 0
	}
	var sum time.Duration
	for _, d := range t {
		sum += d
	}
	return sum / time.Duration(len(t))
}

// measure sends packets between pairs of nodes, all pairs at once, and returns their round trips.
func measure(ctx context.Context, network *wan.WAN, places []place, target uint16, pairs [][2]int) (map[[2]int]trips, error) {
	var (
		mu     sync.Mutex
		wg     sync.WaitGroup
		result = map[[2]int]trips{}
		failed error
	)
	for _, pair := range pairs {
		if _, ok := result[pair]; ok {
			continue
		}
		result[pair] = nil
		wg.Go(func() {
			got, err := measurePair(ctx, network, places, target, pair)
			mu.Lock()
			defer mu.Unlock()
			result[pair] = got
			if err != nil {
				failed = err
			}
		})
	}
	wg.Wait()
	return result, failed
}

func measurePair(ctx context.Context, network *wan.WAN, places []place, target uint16, pair [2]int) (trips, error) {
	sender, err := probe.NewSTAMPSender(places[pair[0]].addr, nil)
	if err != nil {
		return nil, err
	}
	defer sender.Close()
	to := network.Endpoint(pair[1])
	if pair[0] == pair[1] { // on one node, no network is between
		to = netip.AddrPortFrom(places[pair[1]].addr, target)
	}
	var got trips
	for range probesPerPair {
		probeCtx, cancel := context.WithTimeout(ctx, probeTimeout)
		r, err := sender.Probe(probeCtx, to)
		cancel()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err == nil { // a lost one is no round trip
			got = append(got, r.RTT)
		}
	}
	if len(got) == 0 {
		return nil, fmt.Errorf("no packet came back from %s to %s", places[pair[1]].name, places[pair[0]].name)
	}
	return got, nil
}

// report is out/demo/report.json.
type report struct {
	Schedulers map[string]figures `json:"schedulers"`
}

// figures are what one scheduler's placement is worth.
type figures struct {
	ClientRTTMillis     clientFigures     `json:"clientRTTMillis"`
	DependencyRTTMillis dependencyFigures `json:"dependencyRTTMillis"`
	LimitsBroken        int               `json:"limitsBroken"`
}

type clientFigures struct {
	Mean float64 `json:"mean"`
	P95  float64 `json:"p95"`
}

type dependencyFigures struct {
	Mean float64 `json:"mean"`
}

func toMillis(d time.Duration) float64 {
	return float64(d.Round(time.Microsecond)) / float64(time.Millisecond)
}

func (r report) write(folder string) (string, error) {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return "", err
	}
	path := filepath.Join(folder, "report.json")
	return path, os.WriteFile(path, append(data, '\n'), 0o644)
}

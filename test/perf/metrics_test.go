// SPDX-License-Identifier: Apache-2.0

//go:build perf

package perf

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

// utilisation is the recording rule of node-mixin's rules that Trimaran asks for; NodeMetrics is configured to ask for it too.
const utilisation = "instance:node_cpu:ratio"

// startMetrics serves, until the test ends, what Prometheus would say of nodes named node-0, node-1, …, and returns the address: their CPU
// utilisation, 10 to 60 %. It stands in the place of Prometheus, which needs a quarter of an hour of samples before it can say as much, and runs in
// this process and not in that which is measured. What is asked for beside the utilisation is unknown.
func startMetrics(t *testing.T) string {
	t.Helper()
	type series struct {
		Metric map[string]string `json:"metric"`
		Value  [2]any            `json:"value"`
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.FormValue("query")
		now := float64(time.Now().UnixMilli()) / 1000
		result := []series{}
		if strings.Contains(query, utilisation) {
			for i := range full15000 {
				value := 0.1 + float64(i*7919%500)/1000
				switch {
				case strings.HasPrefix(query, "timestamp("):
					value = now - 5
				case strings.HasPrefix(query, "stddev_over_time("):
					value = 0.05
				}
				result = append(result, series{
					map[string]string{"instance": fmt.Sprintf("node-%d", i)}, [2]any{now, strconv.FormatFloat(value, 'f', -1, 64)},
				})
			}
		}
		w.Header().Set("Content-Type", "application/json")
		// The one who asks may be gone.
		_ = json.NewEncoder(w).Encode(map[string]any{"status": "success", "data": map[string]any{"resultType": "vector", "result": result}})
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// SPDX-License-Identifier: Apache-2.0

package prometheus

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestAllowance: how much is read of an answer that is longer than it can be follows from what the query's answers were before.
func TestAllowance(t *testing.T) {
	const healthy, growing = 1000, 3 * smallBody
	var send, took int64
	client, err := newClient("http://x", 5*time.Minute, roundTripper(func(r *http.Request) (*http.Response, error) {
		series := `{"metric":{},"value":[1,"1"]}`
		body := vector(series)
		if send > 0 { // blanks are JSON, too
			body = strings.Replace(body, "[{", "["+strings.Repeat(" ", int(send)-len(body))+"{", 1)
		}
		took = 0
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, ContentLength: -1, Body: &counted{strings.NewReader(body), &took}, Request: r}, nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	client.Expect(20)
	most := client.limit.Load()
	if want := int64(leastBody + 20*20*seriesBytes); most != want {
		t.Errorf("20 nodes may have %d bytes to say, want %d", most, want)
	}
	ask := func(promql string, size int64) string {
		send = size
		_, err := client.Query(t.Context(), "test", promql)
		read := "all"
		switch {
		case took > most:
			read = "the most"
		case took > growth*healthy+smallBody+1: // the byte that tells
			read = "some"
		case err != nil:
			read = "little"
		}
		if err != nil && !errors.Is(err, errTooLarge) {
			return fmt.Sprint(err)
		}
		return read
	}
	var got []string
	// A server that is broken from the start, and then is not.
	for range 5 {
		got = append(got, ask("broken", 2*most))
	}
	got = append(got, ask("broken", healthy), "|")
	// One that breaks, and an answer that grows in good faith.
	got = append(got, ask("breaks", healthy), ask("breaks", 2*most), ask("breaks", healthy), "|")
	got = append(got, ask("breaks", growing), ask("breaks", growing), ask("breaks", growing), ask("breaks", growing))
	want := []string{"the most", "little", "the most", "little", "little", "all", "|", "all", "little", "all", "|", "little", "little", "some", "some"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("read of the answers (-want +got):\n%s", diff)
	}
	client.Expect(1 << 20)
	if got := client.limit.Load(); got != MaxBody {
		t.Errorf("a million nodes may have %d bytes to say, want %d", got, MaxBody)
	}
}

// counted counts what is read.
type counted struct {
	io.Reader
	n *int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	*c.n += int64(n)
	return n, err
}

func (c *counted) Close() error { return nil }

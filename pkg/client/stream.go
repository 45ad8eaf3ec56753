// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
)

// StreamNodeLatencies lists what the nodes measured. Each is decoded while the API server still writes the next, where List waits for the last
// one; in a large cluster that is most of what a command waits for. An error of the API server is that of List. What breaks off, or has no
// items, not even none, is an error: it would read as a cluster in which nobody measures.
func (c *Client) StreamNodeLatencies(ctx context.Context, opts metav1.ListOptions) ([]*v1alpha1.NodeLatency, error) {
	body, err := c.rest.Get().Resource(NodeLatencies).VersionedParams(&opts, c.params).Stream(ctx)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	out, err := decodeItems[v1alpha1.NodeLatency](body)
	if err != nil {
		return nil, fmt.Errorf("reading the list of %s: %w", NodeLatencies, err)
	}
	return out, nil
}

// decodeItems returns the items of a Kubernetes list in JSON.
func decodeItems[T any](r io.Reader) ([]*T, error) {
	d := json.NewDecoder(r)
	if err := expect(d, '{'); err != nil {
		return nil, err
	}
	var items []*T
	found := false
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		if key != "items" {
			var other json.RawMessage
			if err := d.Decode(&other); err != nil {
				return nil, err
			}
			continue
		}
		found = true
		switch first, err := d.Token(); {
		case err != nil:
			return nil, err
		case first == nil: // null, of a list without items
			continue
		case first != json.Delim('['):
			return nil, fmt.Errorf("items are %v, and no list", first)
		}
		for d.More() {
			item := new(T)
			if err := d.Decode(item); err != nil {
				return nil, err
			}
			items = append(items, item)
		}
		if err := expect(d, ']'); err != nil {
			return nil, err
		}
	}
	if err := expect(d, '}'); err != nil {
		return nil, err
	}
	if !found {
		return nil, errors.New("no items, so this is no list")
	}
	return items, nil
}

// expect reads a token that must come next.
func expect(d *json.Decoder, want json.Delim) error {
	got, err := d.Token()
	switch {
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	case err != nil:
		return err
	case got != want:
		return fmt.Errorf("%v where %v must be", got, want)
	}
	return nil
}

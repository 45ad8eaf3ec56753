// SPDX-License-Identifier: Apache-2.0

package program

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

const pollInterval = 25 * time.Millisecond

// Final makes an error one that no further attempt can mend: Poll returns it at once.
func Final(err error) error { return final{err} }

type final struct{ error }

// Poll calls a check until it returns nil. A process that ends, or a context that does, is an error, which says
// what the check saw last. The process may be nil.
func Poll(ctx context.Context, p *Process, check func(context.Context) error) error {
	var exited <-chan struct{} // nil blocks: without a process there is nothing to wait for
	fail := func(err error) error { return err }
	if p != nil {
		exited, fail = p.done, p.Failure
	}
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	var seen error
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if f, ok := errors.AsType[final](err); ok {
			return f.error
		}
		// What cut a check short says less than what the one before it saw.
		if seen == nil || ctx.Err() == nil {
			seen = err
		}
		select {
		case <-exited:
			return fail(errors.New("it ended while starting"))
		case <-ctx.Done():
			return fail(fmt.Errorf("not ready in time: %w (last seen: %w)", context.Cause(ctx), seen))
		case <-ticker.C:
		}
	}
}

// Get succeeds when the URL answers 200 within 5 s.
func Get(ctx context.Context, client *http.Client, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return final{err}
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return nil
}

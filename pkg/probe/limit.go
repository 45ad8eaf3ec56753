// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"net/netip"
	"time"
)

// recent is a map of bounded size that keeps what was used last: when its younger half is full, the older half is
// forgotten. It holds at most 2·limit entries, and every step costs the same whatever is thrown at it.
type recent[K comparable, V any] struct {
	limit          int
	younger, older map[K]V
}

func newRecent[K comparable, V any](limit int) *recent[K, V] {
	return &recent[K, V]{limit: limit, younger: map[K]V{}}
}

func (r *recent[K, V]) get(k K) (V, bool) {
	if v, ok := r.younger[k]; ok {
		return v, true
	}
	v, ok := r.older[k]
	return v, ok
}

func (r *recent[K, V]) put(k K, v V) {
	if _, ok := r.younger[k]; !ok && len(r.younger) >= r.limit {
		r.older, r.younger = r.younger, map[K]V{}
	}
	r.younger[k] = v
}

// limiter is a token bucket a source address.
type limiter struct {
	perSecond, burst float64
	buckets          *recent[netip.Addr, bucket]
}

type bucket struct {
	tokens float64
	at     time.Time
}

func newLimiter(perSecond, burst float64, sources int) *limiter {
	return &limiter{perSecond: perSecond, burst: burst, buckets: newRecent[netip.Addr, bucket](sources)}
}

// allow takes a token of a source's bucket, or returns false when there is none.
func (l *limiter) allow(source netip.Addr, now time.Time) bool {
	b, ok := l.buckets.get(source)
	if !ok {
		b = bucket{tokens: l.burst, at: now}
	}
	b.tokens = min(l.burst, b.tokens+max(0, now.Sub(b.at).Seconds())*l.perSecond)
	b.at = now
	allowed := b.tokens >= 1
	if allowed {
		b.tokens--
	}
	l.buckets.put(source, b)
	return allowed
}

// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"net/netip"
	"slices"
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

// limiter is what a reflector knows of each source address: a token bucket, and the last probes, so that it answers none
// of them twice. Older ones that somebody replays are answered, within the limit; their sender drops the answer.
type limiter struct {
	perSecond, burst float64
	start            time.Time
	sources          *recent[netip.Addr, source]
}

type source struct {
	tokens float64
	at     time.Duration // since start
	seen   [4]probeID    // a ring; the zero value is no probe
	next   uint8
}

// probeID tells the probes of one address apart. Who cannot see a probe cannot make one that has its ID, and so cannot keep
// the reflector from answering it.
type probeID struct {
	timestamp STAMPTime
	sequence  uint32
	port      uint16
}

func newLimiter(perSecond, burst float64, sources int) *limiter {
	return &limiter{
		perSecond: perSecond, burst: burst, start: time.Now(), sources: newRecent[netip.Addr, source](sources),
	}
}

// take says what becomes of a probe: ReflectedReplayed, ReflectedLimited when there is no token in the bucket of its
// source, and else ReflectedAnswered, which takes a token.
func (l *limiter) take(from netip.Addr, id probeID, now time.Time) Reflected {
	at := now.Sub(l.start)
	s, ok := l.sources.get(from)
	if !ok {
		s = source{tokens: l.burst, at: at}
	}
	if slices.Contains(s.seen[:], id) {
		return ReflectedReplayed
	}
	s.tokens = min(l.burst, s.tokens+max(0, (at-s.at).Seconds())*l.perSecond)
	s.at = at
	result := ReflectedLimited
	if s.tokens >= 1 {
		s.tokens--
		s.seen[s.next] = id
		s.next = (s.next + 1) % uint8(len(s.seen))
		result = ReflectedAnswered
	}
	l.sources.put(from, s)
	return result
}

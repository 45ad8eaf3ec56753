// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// MinKeyLen and MaxKeyLen bound the length of a key in octets, without the newline at its end.
	MinKeyLen, MaxKeyLen = 16, 4096
	// keyPoll is the time between two looks at the key's file.
	keyPoll = 10 * time.Second
	// A new key reaches the nodes one after the other: the kubelets renew a Secret's files within some two minutes. So for
	// keyHold a node accepts the new key and goes on sending under the old one, and from then until KeyGrace after the
	// change it sends under the new one and accepts the old one still.
	keyHold = 5 * time.Minute
	// KeyGrace is how long the key before is accepted.
	KeyGrace = 10 * time.Minute
	// macLen is the length of HMAC-SHA-256 truncated to 128 bits: RFC 8762, section 4.4.
	macLen = 16
)

// Key is the secret of authenticated STAMP, of a file such as a Secret's in a volume: MinKeyLen to MaxKeyLen octets of any
// value, and perhaps a newline. Sender and reflector share one Key. It is safe for concurrent use.
type Key struct {
	path string
	log  *slog.Logger
	ring atomic.Pointer[keyRing]
	said string // what was last wrong with the file
}

// keyRing is the key, and the one before it; immutable.
type keyRing struct {
	current, previous *secret // previous is nil where there was none
	since             time.Time
}

// LoadKey reads a key. Watch reads it again when it changes.
func LoadKey(path string, log *slog.Logger) (*Key, error) {
	b, err := readKey(path)
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.Default()
	}
	k := &Key{path: path, log: log.With("file", path)}
	k.ring.Store(&keyRing{current: newSecret(b), since: time.Now()})
	return k, nil
}

// Watch reads the file again every ten seconds until ctx ends. That costs less than to follow the symbolic links by which a
// Secret's files are replaced, and misses none of the ways in which a file can change.
//
// A file that cannot be read, or whose key is too short or too long, leaves the key as it is; the log says so once.
func (k *Key) Watch(ctx context.Context) {
	ticker := time.NewTicker(keyPoll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			k.reload()
		}
	}
}

// reload is called from one goroutine.
func (k *Key) reload() {
	b, err := readKey(k.path)
	if err != nil {
		if said := err.Error(); said != k.said {
			k.said = said
			k.log.Error("The probes' new key cannot be used; the key before stays", "err", err)
		}
		return
	}
	k.said = ""
	ring := k.ring.Load()
	if bytes.Equal(b, ring.current.octets) {
		return
	}
	k.ring.Store(&keyRing{current: newSecret(b), previous: ring.current, since: time.Now()})
	k.log.Info("The probes' key changed", "sentFrom", keyHold.String(), "oldAcceptedFor", KeyGrace.String())
}

func readKey(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the probes' key: %w", err)
	}
	defer file.Close()
	// Two more than a key has: its newline, and one that is too many.
	b, err := io.ReadAll(io.LimitReader(file, MaxKeyLen+2))
	if err != nil {
		return nil, fmt.Errorf("reading the probes' key: %w", err)
	}
	b = bytes.TrimSuffix(b, []byte("\n"))
	switch {
	case len(b) < MinKeyLen:
		return nil, fmt.Errorf("the probes' key: %s holds %d octets: must hold at least %d, such as head -c 32 /dev/urandom makes", path, len(b), MinKeyLen)
	case len(b) > MaxKeyLen:
		return nil, fmt.Errorf("the probes' key: %s holds more than %d octets: must hold a key and nothing else", path, MaxKeyLen)
	default:
		return b, nil
	}
}

// old returns the key before while it is accepted, and else nil.
func (r *keyRing) old(now time.Time) *secret {
	if r.previous != nil && now.Sub(r.since) < KeyGrace {
		return r.previous
	}
	return nil
}

// signing returns the key to send under: the one that every node has by now, or the other of the two that are accepted,
// for a peer that seems not to have that one. choice says that there are two.
func (k *Key) signing(now time.Time, other bool) (key *secret, choice bool) {
	ring := k.ring.Load()
	old := ring.old(now)
	if old == nil {
		return ring.current, false
	}
	if hold := now.Sub(ring.since) < keyHold; hold != other {
		return old, true
	}
	return ring.current, true
}

// verify returns the key under which mac is that of text; nil when there is none.
func (k *Key) verify(now time.Time, mac, text []byte) *secret {
	ring := k.ring.Load()
	if ring.current.verifies(mac, text, nil) {
		return ring.current
	}
	if old := ring.old(now); old != nil && old.verifies(mac, text, nil) {
		return old
	}
	return nil
}

// secret is one key, with what computing a MAC needs.
type secret struct {
	octets []byte

	mu  sync.Mutex
	mac hash.Hash
	sum [sha256.Size]byte
}

func newSecret(octets []byte) *secret {
	return &secret{octets: octets, mac: hmac.New(sha256.New, octets)}
}

// sign writes the MAC of two texts in a row into mac, which has macLen octets.
func (s *secret) sign(mac, text, more []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compute(text, more)
	copy(mac[:macLen], s.sum[:])
}

func (s *secret) compute(text, more []byte) {
	s.mac.Reset()
	_, _ = s.mac.Write(text)
	_, _ = s.mac.Write(more)
	s.mac.Sum(s.sum[:0])
}

// verifies returns whether mac is that of two texts in a row, in a time that does not depend on where it differs.
func (s *secret) verifies(mac, text, more []byte) bool {
	if len(mac) != macLen {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compute(text, more)
	return hmac.Equal(mac, s.sum[:macLen])
}

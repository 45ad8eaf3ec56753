// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/serf/coordinate"
)

var (
	senderAddr    = netip.MustParseAddrPort("10.0.0.7:49152")
	reflectorAddr = netip.MustParseAddrPort("10.0.0.9:8620")
)

// variant is one of the four kinds of packets that there are.
type variant struct {
	key []byte // nil: unauthenticated
	ask bool
}

var (
	key1 = []byte("the key of the first of January.")
	key2 = []byte("the key of the second of May....")

	variants = map[string]variant{
		"unauthenticated":                         {},
		"unauthenticated, asking for information": {ask: true},
		"authenticated":                           {key: key1},
		"authenticated, asking for information":   {key: key1, ask: true},
	}
)

// newKey makes a Key of a file.
func newKey(t testing.TB, octets []byte) *Key {
	t.Helper()
	if octets == nil {
		return nil
	}
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, octets, 0o600); err != nil {
		t.Fatal(err)
	}
	k, err := LoadKey(path, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// somewhere is what a reflector says of itself: numbers that 32 bits hold exactly.
func somewhere() Info {
	return Info{
		Coordinate: &coordinate.Coordinate{
			Vec: []float64{0.5, -0.25, 0.125, 0, 1, -1, 2, -2}, Error: 0.75, Adjustment: -0.0625, Height: 0.03125,
		},
		Near: []uint64{NameHash("a"), NameHash("b"), NameHash("c")},
	}
}

// pair is a sender and a reflector without a network between them.
type pair struct {
	sender    *STAMPSender
	reflector *STAMPReflector
}

func newPair(t testing.TB, s, r variant) pair {
	t.Helper()
	cfg := ReflectorConfig{Key: newKey(t, r.key)}
	if r.ask {
		cfg.Info = somewhere
	}
	return pair{
		&STAMPSender{
			cfg:      SenderConfig{Key: newKey(t, s.key), AskInfo: s.ask, Rejected: func(Reason) {}},
			sessions: map[netip.AddrPort]*stampSession{},
		},
		&STAMPReflector{
			cfg:     cfg,
			limiter: newLimiter(1e9, 1e9, 100),
			answers: newRecent[netip.AddrPort, uint32](100),
		},
	}
}

// probe returns a new probe and its packet.
func (p pair) probe() (*stampProbe, []byte) {
	probe := p.sender.begin(reflectorAddr)
	return probe, p.sender.packet(nil, probe)
}

// reflect returns the answer to a packet. Where the reflector took longer than a sender believes, since the machine is busy,
// it forgets that and answers once more.
func (p pair) reflect(packet []byte) ([]byte, Reflected) {
	for {
		answer, result := p.reflector.answer(nil, packet, nil, senderAddr, time.Now())
		parse := ParseReflector
		if p.reflector.cfg.Key != nil {
			parse = parseAuthReflector
		}
		if a, _ := parse(answer.octets); a.Turnaround() <= MaxTurnaround {
			return answer.octets, result
		}
		p.reflector.limiter = newLimiter(1e9, 1e9, 100)
	}
}

// receive gives an answer to the sender a millisecond from now, and returns what became of it and of the probe; answered is
// false while the probe waits.
func (p pair) receive(probe *stampProbe, packet []byte) (a stampAnswer, answered bool, dropped Reason) {
	dropped = p.sender.receive(packet, reflectorAddr, time.Now().Add(time.Millisecond), 0)
	select {
	case a = <-probe.done:
		return a, true, dropped
	default:
		return stampAnswer{}, false, dropped
	}
}

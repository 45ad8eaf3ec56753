// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// secretVolume is a folder in which files change as in a Secret's volume: key → ..data/key, ..data → a folder that is
// replaced.
type secretVolume struct {
	t      *testing.T
	folder string
	n      int
}

func newSecretVolume(t *testing.T, key []byte) *secretVolume {
	v := &secretVolume{t: t, folder: t.TempDir()}
	v.swap(key)
	if err := os.Symlink("..data/key", v.path()); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v *secretVolume) path() string { return filepath.Join(v.folder, "key") }

// swap replaces the folder; without a key it has none.
func (v *secretVolume) swap(key []byte) {
	v.t.Helper()
	v.n++
	folder := filepath.Join(v.folder, "..2026_"+strings.Repeat("i", v.n))
	if err := os.Mkdir(folder, 0o700); err != nil {
		v.t.Fatal(err)
	}
	if key != nil {
		if err := os.WriteFile(filepath.Join(folder, "key"), key, 0o400); err != nil {
			v.t.Fatal(err)
		}
	}
	link := filepath.Join(v.folder, "..data_tmp")
	if err := os.Symlink(filepath.Base(folder), link); err != nil {
		v.t.Fatal(err)
	}
	if err := os.Rename(link, filepath.Join(v.folder, "..data")); err != nil {
		v.t.Fatal(err)
	}
}

func TestLoadKey(t *testing.T) {
	folder := t.TempDir()
	for name, tc := range map[string]struct {
		octets []byte
		want   string // the key, or the error
		err    bool
	}{
		"text":                         {octets: []byte("0123456789abcdef"), want: "0123456789abcdef"},
		"with a newline":               {octets: []byte("0123456789abcdef\n"), want: "0123456789abcdef"},
		"with two, of which one is it": {octets: []byte("0123456789abcdef\n\n"), want: "0123456789abcdef\n"},
		"octets of any value":          {octets: make([]byte, 32), want: string(make([]byte, 32))},
		"the longest":                  {octets: bytes.Repeat([]byte("x"), MaxKeyLen), want: strings.Repeat("x", MaxKeyLen)},
		"the longest and its newline":  {octets: append(bytes.Repeat([]byte("x"), MaxKeyLen), '\n'), want: strings.Repeat("x", MaxKeyLen)},
		"empty":                        {octets: []byte{}, want: "holds 0 octets: must hold at least 16", err: true},
		"one too short":                {octets: []byte("0123456789abcde\n"), want: "holds 15 octets: must hold at least 16", err: true},
		"one too long":                 {octets: bytes.Repeat([]byte("x"), MaxKeyLen+1), want: "holds more than 4096 octets", err: true},
		"far too long":                 {octets: bytes.Repeat([]byte("x"), 1<<20), want: "holds more than 4096 octets", err: true},
		"missing":                      {want: "no such file", err: true},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(folder, strings.ReplaceAll(name, " ", "-"))
			if tc.octets != nil {
				if err := os.WriteFile(path, tc.octets, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			k, err := LoadKey(path, nil)
			switch {
			case tc.err && (err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), path)):
				t.Errorf("error %v, want one with %q and the file's name", err, tc.want)
			case !tc.err && err != nil:
				t.Error(err)
			case !tc.err && string(k.ring.Load().current.octets) != tc.want:
				t.Errorf("key %q, want %q", k.ring.Load().current.octets, tc.want)
			}
		})
	}
	if _, err := LoadKey(folder, nil); err == nil {
		t.Error("a folder is a key")
	}
}

// logBuffer is a log that one goroutine writes and another reads.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newNode makes a sender and a reflector that share a key, as on a node.
func newNode(t *testing.T, v *secretVolume) (pair, *Key, *logBuffer) {
	t.Helper()
	var logged logBuffer
	k, err := LoadKey(v.path(), slog.New(slog.NewTextHandler(&logged, nil)))
	if err != nil {
		t.Fatal(err)
	}
	p := newPair(t, variant{ask: true}, variant{ask: true})
	p.sender.cfg.Key, p.reflector.cfg.Key = k, k
	return p, k, &logged
}

// exchange has from probe to; it returns whether the answer was believed. A probe that is not answered is lost.
func exchange(from, to pair) bool {
	probe, packet := from.probe()
	answer, _ := to.reflect(packet)
	if answer != nil {
		if a, answered, _ := from.receive(probe, answer); answered && a.err == nil && a.result.Info != nil {
			return true
		}
	}
	from.sender.giveUp(reflectorAddr, probe)
	return false
}

func TestNodesGoOnMeasuringWhileTheKeyChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		volumeA, volumeB := newSecretVolume(t, key1), newSecretVolume(t, key1)
		a, keyA, _ := newNode(t, volumeA)
		b, keyB, _ := newNode(t, volumeB)
		go keyA.Watch(ctx)
		go keyB.Watch(ctx)
		both := func(when string) {
			t.Helper()
			if !exchange(a, b) || !exchange(b, a) {
				t.Errorf("%s the nodes do not understand one another", when)
			}
		}
		both("before")
		volumeA.swap(key2)
		time.Sleep(keyPoll)
		synctest.Wait()
		both("while one has the new key")
		time.Sleep(2 * time.Minute)
		both("two minutes later")
		volumeB.swap(key2)
		// From here until the old key is gone, and some more, every second.
		for range int((KeyGrace + time.Minute) / time.Second) {
			time.Sleep(time.Second)
			both("when both have the new key")
		}
		// Who has only the old key is not heard any more.
		old, _, _ := newNode(t, newSecretVolume(t, key1))
		if exchange(old, a) || exchange(a, old) {
			t.Error("the old key is accepted for ever")
		}
	})
}

func TestANodeThatStartsWhileTheKeyChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		volume := newSecretVolume(t, key1)
		a, key, _ := newNode(t, volume)
		go key.Watch(ctx)
		volume.swap(key2)
		time.Sleep(keyPoll)
		synctest.Wait()
		// It never had the old one, under which the other one sends.
		b, _, _ := newNode(t, newSecretVolume(t, key2))
		if !exchange(b, a) {
			t.Error("the new node is not answered")
		}
		n := 0
		for !exchange(a, b) {
			if n++; n > doubt {
				t.Fatalf("the new node is not understood after %d probes", n)
			}
		}
		for range 5 {
			if !exchange(a, b) {
				t.Error("the sender forgot which key the new node has")
			}
		}
		// A packet that the network lost does not make it change its mind.
		probe, _ := a.probe()
		a.sender.giveUp(reflectorAddr, probe)
		if !exchange(a, b) {
			t.Error("one lost packet, and the sender tried the other key")
		}
	})
}

func TestABadKeyFileLeavesTheKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		volume := newSecretVolume(t, key1)
		a, key, logged := newNode(t, volume)
		ended := make(chan struct{})
		go func() {
			key.Watch(ctx)
			close(ended)
		}()
		polls := func() {
			time.Sleep(5 * keyPoll)
			synctest.Wait()
		}
		b, _, _ := newNode(t, newSecretVolume(t, key1))
		for _, tc := range []struct {
			name   string
			octets []byte
			want   string
		}{
			{"too short", []byte("short"), "holds 5 octets"},
			{"gone", nil, "no such file"},
			{"the same", append(bytes.Clone(key1), '\n'), ""},
		} {
			logged.Reset()
			volume.swap(tc.octets)
			polls()
			if !exchange(a, b) || !exchange(b, a) {
				t.Errorf("%s: the key changed", tc.name)
			}
			if n := strings.Count(logged.String(), "\n"); tc.want == "" && n != 0 || tc.want != "" && n != 1 || !strings.Contains(logged.String(), tc.want) {
				t.Errorf("%s: logged %d lines, want one with %q:\n%s", tc.name, n, tc.want, logged)
			}
		}
		logged.Reset()
		volume.swap([]byte("short"))
		polls()
		volume.swap(key1)
		polls()
		volume.swap([]byte("short"))
		polls()
		if n := strings.Count(logged.String(), "\n"); n != 2 {
			t.Errorf("bad twice, and logged %d times:\n%s", n, logged)
		}
		logged.Reset()
		volume.swap(key2)
		polls()
		if !strings.Contains(logged.String(), "changed") || bytes.Contains([]byte(logged.String()), key2) || bytes.Contains([]byte(logged.String()), key1) {
			t.Errorf("logged:\n%s", logged)
		}
		// One that is bad while there are two keys takes neither away.
		volume.swap(nil)
		polls()
		c, _, _ := newNode(t, newSecretVolume(t, key2))
		if !exchange(b, a) || !exchange(c, a) {
			t.Error("a bad file took a key away")
		}
		cancel()
		<-ended
	})
}

func TestSecret(t *testing.T) {
	// RFC 4231, test case 2, truncated.
	s := newSecret([]byte("Jefe"))
	want := octets(t, "5b dc c1 46 bf 60 75 4e 6a 04 24 26 08 95 75 c7")
	mac := make([]byte, macLen)
	s.sign(mac, []byte("what do ya want "), []byte("for nothing?"))
	if !bytes.Equal(mac, want) {
		t.Errorf("%x, want %x", mac, want)
	}
	for i := range 8 * macLen {
		wrong := bytes.Clone(mac)
		wrong[i/8] ^= 1 << (i % 8)
		if s.verifies(wrong, []byte("what do ya want for nothing?"), nil) {
			t.Errorf("%x is right, too", wrong)
		}
	}
	if s.verifies(mac[:15], []byte("what do ya want for nothing?"), nil) || s.verifies(nil, nil, nil) {
		t.Error("a short one is right, too")
	}
	if !s.verifies(mac, []byte("what do ya want for nothing?"), nil) {
		t.Error("it is wrong the second time")
	}
	if errors.Is(errInfo, errCoordinate) {
		t.Error("two errors are one")
	}
}

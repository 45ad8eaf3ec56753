// SPDX-License-Identifier: Apache-2.0

package rxtime

import (
	"encoding/binary"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stamped is a control message with the kernel's time.
func stamped(at time.Time) []byte {
	b := binary.NativeEndian.AppendUint64(nil, unix.SizeofCmsghdr+16)
	b = binary.NativeEndian.AppendUint32(b, unix.SOL_SOCKET)
	b = binary.NativeEndian.AppendUint32(b, unix.SCM_TIMESTAMPNS)
	b = binary.NativeEndian.AppendUint64(b, uint64(at.Unix()))
	return binary.NativeEndian.AppendUint64(b, uint64(at.Nanosecond()))
}

func TestWaited(t *testing.T) {
	if unix.SizeofCmsghdr != 16 {
		t.Skip("the test's control messages are those of a 64-bit kernel")
	}
	now := time.Now()
	for name, tc := range map[string]struct{ waited, want time.Duration }{
		"not at all":                    {0, 0},
		"a while":                       {10 * time.Millisecond, 10 * time.Millisecond},
		"while the process was stopped": {30 * time.Second, 30 * time.Second},
		"longer than a probe lives: the clock ran": {time.Hour, 0},
		"it came from the future: the clock ran":   {-time.Hour, 0},
		"by a microsecond":                         {-time.Microsecond, 0},
	} {
		control := stamped(now.Round(0).Add(-tc.waited))
		if got := Waited(control, now); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
		if got := At(control, now); got != now.Add(-tc.want) {
			t.Errorf("%s: at %v, want %v before %v", name, got, tc.want, now)
		}
	}
}

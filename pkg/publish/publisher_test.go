// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/client"
)

// bench is a publisher whose clock and measurements the test sets.
type bench struct {
	*Publisher
	t       *testing.T
	api     *fakeAPI
	now     time.Time
	rtt     time.Duration // of the one peer; 0 for dead
	paced   Pace
	luck    float64 // what is random
	results []Published
	logged  bytes.Buffer
}

func newBench(t *testing.T, nodes ...string) *bench {
	t.Helper()
	b := &bench{paced: Pace{}.or(time.Second, time.Minute), t: t, api: newFakeAPI(t, nodes...), now: sentAt, rtt: 10 * msec}
	objects, err := client.New(b.api.config())
	if err != nil {
		t.Fatal(err)
	}
	kube, err := newKubeClient(b.api.config())
	if err != nil {
		t.Fatal(err)
	}
	b.Publisher = NewPublisher(PublisherConfig{
		Node: "edge-01", Endpoint: "10.0.0.1:8620", Objects: objects.NodeLatencies(),
		NodeUID: func(ctx context.Context) (types.UID, error) { return kube.nodeUID(ctx, "edge-01") },
		Measured: func() v1alpha1.NodeLatencyStatus {
			m := v1alpha1.Measurement{Lost: 20}
			if b.rtt > 0 {
				m = v1alpha1.Measurement{Typical: duration(b.rtt), Tail: duration(b.rtt), Samples: 20, At: &metav1.Time{Time: b.now}}
			}
			return v1alpha1.NodeLatencyStatus{Peers: []v1alpha1.PeerLatency{{Node: "edge-02", Measurement: m}}}
		},
		Pace:  func() Pace { return b.paced },
		Count: func(r Published) { b.results = append(b.results, r) },
		Log:   slog.New(slog.NewTextHandler(&b.logged, nil)),
	})
	b.random = func() float64 { return b.luck }
	return b
}

// after lets time pass, and returns what became of the attempts of the tick that follows.
func (b *bench) after(d time.Duration) []Published {
	b.t.Helper()
	b.now = b.now.Add(d)
	b.results = nil
	b.Tick(b.t.Context(), b.now)
	return b.results
}

func (b *bench) want(sentence string, got []Published, want ...Published) {
	b.t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		b.t.Errorf("%s (-want +got):\n%s\n%s", sentence, diff, &b.logged)
	}
}

func (b *bench) publishedRTT() time.Duration {
	b.t.Helper()
	o := b.api.object("edge-01")
	if o == nil || len(o.Status.Peers) != 1 {
		b.t.Fatalf("object %+v", o)
	}
	if o.Status.Peers[0].Typical == nil {
		return 0
	}
	return o.Status.Peers[0].Typical.Duration
}

var wantOwners = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "edge-01", UID: "uid-of-edge-01"}}

func TestPublishMakesAnObjectThatItsNodeOwns(t *testing.T) {
	b := newBench(t, "edge-01")
	if b.ready() == nil {
		t.Error("ready before anything was published")
	}
	b.want("the first time", b.after(0), PublishedOK)
	o := b.api.object("edge-01")
	if o == nil {
		t.Fatal("no object")
	}
	if diff := cmp.Diff(wantOwners, o.OwnerReferences); diff != "" {
		t.Errorf("owners (-want +got):\n%s", diff)
	}
	if o.Spec.Endpoint != "10.0.0.1:8620" || len(o.ManagedFields) != 0 || b.publishedRTT() != 10*msec {
		t.Errorf("object %+v", o)
	}
	if err := b.ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
}

func TestPublishOnlyWhatIsMoreThanNoise(t *testing.T) {
	b := newBench(t, "edge-01")
	b.want("the first time", b.after(0), PublishedOK)
	b.want("nothing changed", b.after(time.Second))
	b.rtt = 10900 * time.Microsecond
	b.want("by 9 %", b.after(time.Second))
	b.rtt = 11100 * time.Microsecond
	b.want("by 11 % since what was published", b.after(time.Second), PublishedOK)
	if got := b.publishedRTT(); got != b.rtt {
		t.Errorf("published %v", got)
	}
	b.want("nothing changed for less than a minute", b.after(59*time.Second))
	b.want("for a minute", b.after(time.Second), PublishedOK)
	b.rtt = 0
	b.want("the peer died", b.after(time.Second), PublishedOK)
	if got := b.publishedRTT(); got != 0 {
		t.Errorf("published %v", got)
	}
	b.rtt = 11100 * time.Microsecond
	b.want("and came back", b.after(time.Second), PublishedOK)
	if got := b.api.count("PUT status"); got != 5 {
		t.Errorf("%d writes of the status, want 5", got)
	}
	if got := b.api.count("GET node"); got != 1 {
		t.Errorf("the Node was read %d times", got)
	}
}

func TestPaceOf(t *testing.T) {
	const s, m = time.Second, time.Minute
	for nodes, want := range map[int]Pace{
		1:      {2 * s, 2 * s, m},
		25:     {2 * s, 25 * s / 7, m},
		360:    {3600 * msec, 360 * s / 7, m},
		5_000:  {50 * s, 5000 * s / 7, 5000 * s / 6},
		15_000: {150 * s, 15000 * s / 7, 30 * m},
	} {
		if got := PaceOf(nodes); got != want {
			t.Errorf("%d nodes: %+v, want %+v", nodes, got, want)
		}
	}
	if got, want := PaceOf(5_000).or(time.Second, 0), (Pace{s, s, 5000 * s / 6}); got != want {
		t.Errorf("with a gap of one's own: %+v, want %+v", got, want)
	}
	if got, want := PaceOf(5_000).or(0, s), (Pace{50 * s, 5000 * s / 7, 50 * s}); got != want {
		t.Errorf("with an age of one's own: %+v, want %+v", got, want)
	}
}

func TestPublishAtThePaceOfALargeCluster(t *testing.T) {
	b := newBench(t, "edge-01")
	b.paced = Pace{MinGap: 10 * time.Second, SmallGap: 100 * time.Second, MaxAge: 1000 * time.Second}
	b.want("the first time", b.after(0), PublishedOK)
	if got := b.api.object("edge-01").Status.RefreshInterval; got == nil || got.Duration != 1000*time.Second {
		t.Errorf("refresh interval %v, want the longest time between two writes", got)
	}
	b.rtt = 12 * msec
	b.want("by 20 %", b.after(99*time.Second))
	b.want("by 20 %, after the small gap", b.after(time.Second), PublishedOK)
	b.rtt = 40 * msec
	b.want("by a lot", b.after(9*time.Second))
	b.want("by a lot, after the least gap", b.after(time.Second), PublishedOK)
	b.want("nothing", b.after(999*time.Second))
	b.want("nothing for the longest time", b.after(time.Second), PublishedOK)
}

func TestPublishTheFirstMeasurementAtOnce(t *testing.T) {
	b := newBench(t, "edge-01")
	b.paced = PaceOf(5000)
	measured := b.cfg.Measured
	b.cfg.Measured = func() v1alpha1.NodeLatencyStatus { return v1alpha1.NodeLatencyStatus{} }
	b.want("before anything was measured", b.after(0), PublishedOK)
	b.want("still nothing", b.after(2*time.Second))
	b.cfg.Measured = measured
	b.want("something, sooner than after the least gap", b.after(2*time.Second), PublishedOK)
	if got := b.publishedRTT(); got != 10*msec {
		t.Errorf("published %v", got)
	}
}

func TestPublishersThatWroteTogetherDriftApart(t *testing.T) {
	b := newBench(t, "edge-01")
	b.paced = Pace{MinGap: 10 * time.Second, SmallGap: 100 * time.Second, MaxAge: 1000 * time.Second}
	b.luck = 0.7
	b.want("the first time, as all others of a new DaemonSet", b.after(0), PublishedOK)
	b.want("before a share of the longest time that is its own", b.after(299*time.Second))
	b.want("after it", b.after(time.Second), PublishedOK)
	b.want("from then on, a little before the longest time", b.after(929*time.Second))
	b.want("not at it", b.after(time.Second), PublishedOK)
	b.api.do(func() { b.api.down = true })
	b.rtt = 40 * msec
	b.want("a server that is down", b.after(10*time.Second), PublishedError)
	b.api.do(func() { b.api.down = false })
	b.want("a server that is back", b.after(2*time.Second), PublishedOK)
	b.rtt = 50 * msec
	b.want("before a share of the small gap that is its own", b.after(29*time.Second))
	b.want("after it", b.after(time.Second), PublishedOK)
	b.rtt = 60 * msec
	b.want("from then on, a little before the small gap", b.after(92*time.Second))
	b.want("not at it", b.after(time.Second), PublishedOK)
	b.rtt = 0
	b.want("the peer died, which others see as well", b.after(10*time.Second), PublishedOK)
	b.want("before a share of the longest time that is its own", b.after(299*time.Second))
	b.want("after it", b.after(time.Second), PublishedOK)
}

// However long the server is down, all probers together ask it no more often than they may write.
func TestPublishRetriesAtThePaceOfALargeCluster(t *testing.T) {
	b := newBench(t, "edge-01")
	b.paced = PaceOf(5000)
	b.api.do(func() { b.api.down = true })
	attempts := 0
	for range 1000 {
		attempts += len(b.after(time.Second))
	}
	// After 1, 2, 4, 8, 16, 32, 50, 50, … seconds.
	if attempts < 22 || attempts > 26 {
		t.Errorf("%d attempts in 1000 s, want about 24", attempts)
	}
}

func TestPublishSetsRightWhatOthersDo(t *testing.T) {
	b := newBench(t, "edge-01")
	b.want("the first time", b.after(0), PublishedOK)

	b.api.delete("edge-01")
	b.rtt = 20 * msec
	b.want("the object was deleted", b.after(time.Second), PublishedGone, PublishedOK)
	if got := b.publishedRTT(); got != b.rtt {
		t.Errorf("published %v", got)
	}

	b.api.do(func() {
		o := b.api.objects["edge-01"].DeepCopy()
		o.Labels = map[string]string{"somebody": "was-here"}
		o.Spec.Endpoint = "10.6.6.6:1"
		b.api.store(o, "MODIFIED")
	})
	b.rtt = 30 * msec
	b.want("the object was changed", b.after(time.Second), PublishedConflict, PublishedOK)
	o := b.api.object("edge-01")
	if b.publishedRTT() != b.rtt || o.Labels["somebody"] == "" || o.Spec.Endpoint != "10.0.0.1:8620" {
		t.Errorf("object %+v", o)
	}

	b.api.do(func() { b.api.nodes["edge-01"] = "another-uid" })
	b.want("its Node was made anew", b.after(recheck), PublishedOK)
	if got := b.api.object("edge-01").OwnerReferences; len(got) != 1 || got[0].UID != "another-uid" {
		t.Errorf("owners %+v", got)
	}
}

func TestPublishFindsAnObjectOfEarlier(t *testing.T) {
	b := newBench(t, "edge-01")
	b.api.do(func() {
		b.api.store(&v1alpha1.NodeLatency{
			ObjectMeta: metav1.ObjectMeta{Name: "edge-01", OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "edge-01", UID: "old"}}},
			Spec:       v1alpha1.NodeLatencySpec{Endpoint: "10.0.0.99:8620"},
			Status:     v1alpha1.NodeLatencyStatus{Peers: []v1alpha1.PeerLatency{{Node: "edge-02", Measurement: v1alpha1.Measurement{Typical: duration(7 * msec)}}}},
		}, "ADDED")
	})
	measured := b.cfg.Measured
	b.cfg.Measured = func() v1alpha1.NodeLatencyStatus { return v1alpha1.NodeLatencyStatus{} }
	b.want("before anything was measured", b.after(0), PublishedOK)
	o := b.api.object("edge-01")
	if diff := cmp.Diff(wantOwners, o.OwnerReferences); diff != "" || o.Spec.Endpoint != "10.0.0.1:8620" {
		t.Errorf("endpoint %s, owners (-want +got):\n%s", o.Spec.Endpoint, diff)
	}
	if got := b.publishedRTT(); got != 7*msec {
		t.Errorf("what was published earlier became %v", got)
	}
	b.cfg.Measured = measured
	b.want("afterwards", b.after(time.Second), PublishedOK)
	if got := b.publishedRTT(); got != 10*msec {
		t.Errorf("published %v", got)
	}
}

func TestPublishWaitsForWhatIsMissing(t *testing.T) {
	for name, tc := range map[string]struct {
		breaks, mends func(*fakeAPI)
		want          Published
		says          string
	}{
		"the CRD":    {func(f *fakeAPI) { f.noCRD = true }, func(f *fakeAPI) { f.noCRD = false }, PublishedNoCRD, "CustomResourceDefinition is not installed"},
		"the Node":   {func(f *fakeAPI) { delete(f.nodes, "edge-01") }, func(f *fakeAPI) { f.nodes["edge-01"] = "uid" }, PublishedNoNode, "no Node of this name"},
		"the server": {func(f *fakeAPI) { f.down = true }, func(f *fakeAPI) { f.down = false }, PublishedError, "etcd has no leader"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, "edge-01")
			b.api.do(func() { tc.breaks(b.api) })
			attempts := 0
			for range 120 {
				got := b.after(time.Second)
				attempts += len(got)
				for _, r := range got {
					if r != tc.want {
						t.Fatalf("attempts %v, want %s", got, tc.want)
					}
				}
			}
			// After 1, 2, 4, 8, 15, 15, … seconds, and a fifth more at most.
			if attempts < 8 || attempts > 12 {
				t.Errorf("%d attempts in two minutes", attempts)
			}
			if n := strings.Count(b.logged.String(), "\n"); n != 1 {
				t.Errorf("%d lines were logged, want 1:\n%s", n, &b.logged)
			}
			if err := b.ready(); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("ready says %v, want %q", err, tc.says)
			}
			b.api.do(func() { tc.mends(b.api) })
			var got []Published
			for range 20 {
				got = append(got, b.after(time.Second)...)
			}
			b.want("once it is there", got, PublishedOK)
			if err := b.ready(); err != nil {
				t.Errorf("not ready: %v", err)
			}
		})
	}
}

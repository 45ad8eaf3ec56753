// SPDX-License-Identifier: Apache-2.0

// Package publish runs the prober of one node, and publishes what it measures as the node's NodeLatency object, when
// something changed by more than the noise, or when the last time is a while ago.
package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/client"
)

const (
	// tickInterval is how often the publisher looks whether there is something to write, where its gap is longer.
	tickInterval = 2 * time.Second
	// callTimeout bounds one call of the API.
	callTimeout = 10 * time.Second
	// firstRetry and lastRetry are the ends of the time between two attempts, which doubles.
	firstRetry, lastRetry = time.Second, 15 * time.Second
	// recheck is how often Node and object are looked at although nothing failed. When somebody changes or deletes the object, the
	// next write fails and shows it; so does a Node of the same name, because the object goes with the one that owned it.
	recheck = time.Hour
	// spread is the share of its gaps by which a prober may come early, at random, so that those that wrote together drift apart.
	spread = 0.1
)

// Published says what became of an attempt to publish: the value of a metric's label.
type Published string

// What becomes of an attempt.
const (
	// PublishedOK: written.
	PublishedOK Published = "ok"
	// PublishedConflict: somebody else wrote the object meanwhile. Tried again at once.
	PublishedConflict Published = "conflict"
	// PublishedGone: the object was deleted. Made again at once.
	PublishedGone Published = "gone"
	// PublishedNoCRD: the API server does not know NodeLatency.
	PublishedNoCRD Published = "no_crd"
	// PublishedNoNode: there is no Node that could own the object.
	PublishedNoNode Published = "no_node"
	// PublishedError: another error.
	PublishedError Published = "error"
)

// AllPublished returns everything that may become of an attempt.
func AllPublished() []Published {
	return []Published{
		PublishedOK, PublishedConflict, PublishedGone, PublishedNoCRD, PublishedNoNode, PublishedError,
	}
}

var (
	errNoCRD  = errors.New("the API server does not know NodeLatency: the CustomResourceDefinition is not installed")
	errNoNode = errors.New("there is no Node of this name")
)

// Cause says why a report was written.
type Cause string

// Why a report is written.
const (
	// CauseFirst: there was none of this process before.
	CauseFirst Cause = "first"
	// CauseAge: the last one is as old as Pace.MaxAge allows.
	CauseAge Cause = "age"
	// CauseSmall and CauseLarge: something changed, see Pace.
	CauseSmall Cause = "small change"
	CauseLarge Cause = "large change"
)

// PublisherConfig configures a Publisher; all fields are needed.
type PublisherConfig struct {
	// Node is the name of the node: that of its Node, and of its NodeLatency.
	Node string
	// Endpoint is the address and port at which other nodes reach the reflector.
	Endpoint string
	// Objects are the NodeLatency objects.
	Objects *client.NodeMeasurements
	// NodeUID returns the UID of the Node.
	NodeUID func(context.Context) (types.UID, error)
	// Measured returns what is to be published, as Status makes it.
	Measured func() v1alpha1.NodeLatencyStatus
	// Pace is asked at every tick, since it depends on the number of nodes.
	Pace func() Pace
	// Count takes what became of every attempt.
	Count func(Published)
	Log   *slog.Logger
}

// Pace is how often a prober writes.
type Pace struct {
	// MinGap is the least time between two writes, whatever happened.
	MinGap time.Duration
	// SmallGap is the least time before a write that is only about small changes: see changed.
	SmallGap time.Duration
	// MaxAge is the most time between two writes, however little changed.
	MaxAge time.Duration
}

const (
	// The writes of all probers together, at the most: for age, for small changes, and for large ones. A watch of all NodeLatency
	// objects, which is what each scheduler has, carries as many events. Where there are many nodes, each of them has a small
	// change to tell at any time, since it measures others in turn: smallWritesPerSecond is what they cost in quiet times.
	ageWritesPerSecond, smallWritesPerSecond, largeWritesPerSecond = 6, 7, 100

	leastGap = 2 * time.Second
	leastAge = time.Minute
	mostAge  = 30 * time.Minute // the longest that the scheduler takes a prober's word for
)

// PaceOf returns the pace of each of so many probers: the more they are, the less each may write, so that all of them together do
// not keep the API server busy. Up to 14 nodes a change is written after 2 s, up to 360 nodes everything after 1 min.
func PaceOf(nodes int) Pace {
	gap := func(perSecond int) time.Duration {
		return max(leastGap, time.Duration(nodes)*time.Second/time.Duration(perSecond))
	}
	return Pace{
		MinGap:   gap(largeWritesPerSecond),
		SmallGap: gap(smallWritesPerSecond),
		MaxAge:   min(max(leastAge, gap(ageWritesPerSecond)), mostAge),
	}
}

// or returns p with the parts that the administrator chose himself.
func (p Pace) or(minGap, maxAge time.Duration) Pace {
	if minGap > 0 {
		p.MinGap, p.SmallGap = minGap, minGap
	}
	if maxAge > 0 {
		p.MaxAge = maxAge
	}
	p.MaxAge = max(p.MaxAge, p.MinGap)
	return p
}

// Publisher keeps one NodeLatency object as it should be.
type Publisher struct {
	cfg       PublisherConfig
	beat      atomic.Int64 // Unix nanoseconds
	published atomic.Bool

	// What follows belongs to the goroutine of Run.
	object    *v1alpha1.NodeLatency // as the server last returned it; nil when that is not known
	checkedAt time.Time
	last      *v1alpha1.NodeLatencyStatus // as it was last written; nil before
	lastAt    time.Time
	share     float64 // of SmallGap and MaxAge, after which the next one is due
	retryAt   time.Time
	failures  int
	random    func() float64 // in [0, 1)

	mu      sync.Mutex
	problem error // why the last attempt failed
}

// NewPublisher returns a publisher that has written nothing yet.
func NewPublisher(cfg PublisherConfig) *Publisher {
	p := &Publisher{cfg: cfg, random: rand.Float64}
	p.beat.Store(time.Now().UnixNano())
	return p
}

// Run publishes until ctx ends.
func (p *Publisher) Run(ctx context.Context) {
	ticker := time.NewTicker(min(p.cfg.Pace().MinGap, tickInterval))
	defer ticker.Stop()
	for {
		p.Tick(ctx, time.Now())
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// lastBeat returns when the publisher last looked what to do.
func (p *Publisher) lastBeat() time.Time { return time.Unix(0, p.beat.Load()) }

// ready returns nil once the node's object was written, and else why it was not.
func (p *Publisher) ready() error {
	if p.published.Load() {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.problem != nil {
		return p.problem
	}
	return errors.New("nothing was published yet")
}

// Tick looks what to do at a time, and returns why it wrote; "" where it did not. A simulation with a clock of its own calls it in place
// of Run.
func (p *Publisher) Tick(ctx context.Context, now time.Time) Cause {
	p.beat.Store(now.UnixNano())
	if now.Before(p.retryAt) {
		return ""
	}
	pace := p.cfg.Pace()
	since := now.Sub(p.lastAt)
	if p.last != nil && since < pace.MinGap {
		return ""
	}
	status := p.cfg.Measured()
	status.RefreshInterval = &metav1.Duration{Duration: pace.MaxAge.Round(time.Second)}
	cause := p.cause(&status, since, pace)
	// As long as nothing is measured there is only an object to be made. What a prober before this one published may still be of use.
	nothing := status.Control == nil && len(status.Peers) == 0
	if cause == "" || nothing && p.object != nil {
		return ""
	}
	err := p.publish(ctx, now, status)
	if ctx.Err() != nil {
		return ""
	}
	p.note(err)
	if err != nil {
		p.failures++
		// The nodes must not return together to a server that was down, nor faster than they may write at all.
		wait := min(max(lastRetry, pace.MinGap), firstRetry<<min(p.failures-1, 10))
		p.retryAt = now.Add(wait + time.Duration(p.random()*float64(wait)/5))
		return ""
	}
	p.share = 1 - spread*p.random()
	if cause == CauseFirst || cause == CauseLarge || p.failures > 0 {
		// Many others may have written at this moment: those of a new DaemonSet, all that measure a node that died, all that waited
		// for a server. They spread at once.
		p.share = 1 - p.random()
	}
	p.failures = 0
	if nothing {
		return ""
	}
	p.last, p.lastAt = &status, now
	return cause
}

// cause returns why a status is to be written, so long after the last one; "" where it is not.
func (p *Publisher) cause(status *v1alpha1.NodeLatencyStatus, since time.Duration, pace Pace) Cause {
	if p.last == nil {
		return CauseFirst
	}
	due := func(gap time.Duration) bool { return since >= time.Duration(p.share*float64(gap)) }
	switch by := changed(p.last, status); {
	case by == changedMuch:
		return CauseLarge
	case due(pace.MaxAge):
		return CauseAge
	case by == changedSlightly && due(pace.SmallGap):
		return CauseSmall
	default:
		return ""
	}
}

// note counts the end of an attempt, and logs when it differs from the one before.
func (p *Publisher) note(err error) {
	result := PublishedOK
	switch {
	case errors.Is(err, errNoCRD):
		result = PublishedNoCRD
	case errors.Is(err, errNoNode):
		result = PublishedNoNode
	case err != nil:
		result = PublishedError
	}
	p.cfg.Count(result)
	p.mu.Lock()
	before := p.problem
	p.problem = err
	p.mu.Unlock()
	switch {
	case err == nil && !p.published.Swap(true):
		p.cfg.Log.Info("Published", "nodeLatency", p.cfg.Node, "endpoint", p.cfg.Endpoint)
	case err == nil && before != nil:
		p.cfg.Log.Info("Publishing works again", "nodeLatency", p.cfg.Node)
	case err != nil && (before == nil || before.Error() != err.Error()):
		p.cfg.Log.Warn("Cannot publish, and will try again", "nodeLatency", p.cfg.Node, "err", err)
	}
}

// publish writes the object. What it finds in its way of conflicts and deletions it sets right and tries again, twice.
func (p *Publisher) publish(ctx context.Context, now time.Time, status v1alpha1.NodeLatencyStatus) error {
	var err error
	for range 3 {
		err = p.attempt(ctx, now, status)
		switch {
		case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
			p.cfg.Count(PublishedConflict)
		case apierrors.IsNotFound(err):
			p.cfg.Count(PublishedGone)
		default:
			if err != nil {
				p.object = nil
			}
			return err
		}
		p.object = nil
	}
	return err
}

func (p *Publisher) attempt(ctx context.Context, now time.Time, status v1alpha1.NodeLatencyStatus) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if p.object == nil || now.Sub(p.checkedAt) >= recheck {
		object, err := p.ensure(ctx)
		if err != nil {
			return err
		}
		p.object, p.checkedAt = object, now
	}
	if status.Control == nil && len(status.Peers) == 0 {
		return nil
	}
	object := p.object.DeepCopy()
	object.Status = status
	object, err := p.cfg.Objects.UpdateStatus(ctx, object, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("writing the status: %w", err)
	}
	p.object = object
	return nil
}

// ensure makes the object exist, with the right owner and endpoint, and returns it as the server has it.
func (p *Publisher) ensure(ctx context.Context) (*v1alpha1.NodeLatency, error) {
	uid, err := p.cfg.NodeUID(ctx)
	if apierrors.IsNotFound(err) {
		return nil, errNoNode // and not err: it is not the object that is gone
	}
	if err != nil {
		return nil, fmt.Errorf("reading the Node: %w", err)
	}
	owners := []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: p.cfg.Node, UID: uid}}

	object, err := p.cfg.Objects.Get(ctx, p.cfg.Node, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		object, err = p.cfg.Objects.Create(ctx, &v1alpha1.NodeLatency{
			ObjectMeta: metav1.ObjectMeta{Name: p.cfg.Node, OwnerReferences: owners},
			Spec:       v1alpha1.NodeLatencySpec{Endpoint: p.cfg.Endpoint},
		}, metav1.CreateOptions{})
		if apierrors.IsNotFound(err) {
			return nil, errNoCRD // what is created cannot be missing, so its kind is
		}
		if err != nil {
			return nil, fmt.Errorf("creating the object: %w", err)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading the object: %w", err)
	}
	right := object.Spec.Endpoint == p.cfg.Endpoint && slices.EqualFunc(object.OwnerReferences, owners, sameOwner)
	if right && len(object.ManagedFields) == 0 {
		return object, nil
	}
	object = object.DeepCopy()
	object.Spec.Endpoint = p.cfg.Endpoint
	object.OwnerReferences = owners
	// One empty entry tells the server to stop tracking who owns which field. With one writer that is of no use, and for a
	// list of peers it takes more room than the list.
	object.ManagedFields = []metav1.ManagedFieldsEntry{{}}
	object, err = p.cfg.Objects.Update(ctx, object, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("mending the object: %w", err)
	}
	return object, nil
}

func sameOwner(a, b metav1.OwnerReference) bool {
	return a.APIVersion == b.APIVersion && a.Kind == b.Kind && a.Name == b.Name && a.UID == b.UID
}

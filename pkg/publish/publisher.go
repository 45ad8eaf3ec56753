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
	// recheck is how often the object is looked at although nothing failed: somebody may have changed what it says of its
	// Node or its endpoint.
	recheck = 10 * time.Minute
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

// publisherConfig configures a publisher; all fields are needed.
type publisherConfig struct {
	node     string
	endpoint string
	objects  *client.NodeMeasurements
	nodeUID  func(context.Context) (types.UID, error)
	measured func() v1alpha1.NodeLatencyStatus
	// pace is asked at every tick, since it depends on the number of nodes.
	pace  func() Pace
	count func(Published)
	log   *slog.Logger
}

// Pace is how often a prober writes.
type Pace struct {
	// MinGap is the least time between two writes, whatever happened.
	MinGap time.Duration
	// SmallGap is the least time before a write that is only about statistics which moved to less than the double and more than the
	// half.
	SmallGap time.Duration
	// MaxAge is the most time between two writes, however little changed.
	MaxAge time.Duration
}

const (
	// The writes of all probers together, at the most: for age, for small changes, and for large ones. A watch of all NodeLatency
	// objects, which is what each scheduler has, carries as many events.
	ageWritesPerSecond, smallWritesPerSecond, largeWritesPerSecond = 6, 10, 100

	leastGap = 2 * time.Second
	leastAge = time.Minute
	mostAge  = 30 * time.Minute // the longest that the scheduler takes a prober's word for
)

// PaceOf returns the pace of each of so many probers: the more they are, the less each may write, so that all of them together do
// not keep the API server busy. Up to 20 nodes a change is written after 2 s, up to 360 nodes everything after 1 min.
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

// publisher keeps one NodeLatency object as it should be.
type publisher struct {
	publisherConfig
	beat      atomic.Int64 // Unix nanoseconds
	published atomic.Bool

	// What follows belongs to the goroutine of run.
	object    *v1alpha1.NodeLatency // as the server last returned it; nil when that is not known
	checkedAt time.Time
	last      *v1alpha1.NodeLatencyStatus // as it was last written; nil before
	lastAt    time.Time
	retryAt   time.Time
	failures  int

	mu      sync.Mutex
	problem error // why the last attempt failed
}

func newPublisher(cfg publisherConfig) *publisher {
	p := &publisher{publisherConfig: cfg}
	p.beat.Store(time.Now().UnixNano())
	return p
}

// run publishes until ctx ends.
func (p *publisher) run(ctx context.Context) {
	ticker := time.NewTicker(min(p.pace().MinGap, tickInterval))
	defer ticker.Stop()
	for {
		p.tick(ctx, time.Now())
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// lastBeat returns when the publisher last looked what to do.
func (p *publisher) lastBeat() time.Time { return time.Unix(0, p.beat.Load()) }

// ready returns nil once the node's object was written, and else why it was not.
func (p *publisher) ready() error {
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

func (p *publisher) tick(ctx context.Context, now time.Time) {
	p.beat.Store(now.UnixNano())
	if now.Before(p.retryAt) {
		return
	}
	pace := p.pace()
	since := now.Sub(p.lastAt)
	if p.last != nil && since < pace.MinGap {
		return
	}
	status := p.measured()
	status.RefreshInterval = &metav1.Duration{Duration: pace.MaxAge.Round(time.Second)}
	if p.last != nil && since < pace.MaxAge {
		switch changed(p.last, &status) {
		case unchanged:
			return
		case changedSlightly:
			if since < pace.SmallGap {
				return
			}
		}
	}
	err := p.publish(ctx, now, status)
	if ctx.Err() != nil {
		return
	}
	p.note(err)
	if err != nil {
		p.failures++
		wait := min(lastRetry, firstRetry<<min(p.failures-1, 10))
		// Spread by a fifth, so that the nodes do not return together to a server that was down.
		p.retryAt = now.Add(wait + time.Duration(rand.Int64N(int64(wait)/5)))
		return
	}
	p.failures = 0
	p.last, p.lastAt = &status, now
}

// note counts the end of an attempt, and logs when it differs from the one before.
func (p *publisher) note(err error) {
	result := PublishedOK
	switch {
	case errors.Is(err, errNoCRD):
		result = PublishedNoCRD
	case errors.Is(err, errNoNode):
		result = PublishedNoNode
	case err != nil:
		result = PublishedError
	}
	p.count(result)
	p.mu.Lock()
	before := p.problem
	p.problem = err
	p.mu.Unlock()
	switch {
	case err == nil && !p.published.Swap(true):
		p.log.Info("Published", "nodeLatency", p.node, "endpoint", p.endpoint)
	case err == nil && before != nil:
		p.log.Info("Publishing works again", "nodeLatency", p.node)
	case err != nil && (before == nil || before.Error() != err.Error()):
		p.log.Warn("Cannot publish, and will try again", "nodeLatency", p.node, "err", err)
	}
}

// publish writes the object. What it finds in its way of conflicts and deletions it sets right and tries again, twice.
func (p *publisher) publish(ctx context.Context, now time.Time, status v1alpha1.NodeLatencyStatus) error {
	var err error
	for range 3 {
		err = p.attempt(ctx, now, status)
		switch {
		case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
			p.count(PublishedConflict)
		case apierrors.IsNotFound(err):
			p.count(PublishedGone)
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

func (p *publisher) attempt(ctx context.Context, now time.Time, status v1alpha1.NodeLatencyStatus) error {
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
		// Nothing is measured yet. What a prober before this one published may still be of use.
		return nil
	}
	object := p.object.DeepCopy()
	object.Status = status
	object, err := p.objects.UpdateStatus(ctx, object, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("writing the status: %w", err)
	}
	p.object = object
	return nil
}

// ensure makes the object exist, with the right owner and endpoint, and returns it as the server has it.
func (p *publisher) ensure(ctx context.Context) (*v1alpha1.NodeLatency, error) {
	uid, err := p.nodeUID(ctx)
	if apierrors.IsNotFound(err) {
		return nil, errNoNode // and not err: it is not the object that is gone
	}
	if err != nil {
		return nil, fmt.Errorf("reading the Node: %w", err)
	}
	owners := []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: p.node, UID: uid}}

	object, err := p.objects.Get(ctx, p.node, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		object, err = p.objects.Create(ctx, &v1alpha1.NodeLatency{
			ObjectMeta: metav1.ObjectMeta{Name: p.node, OwnerReferences: owners},
			Spec:       v1alpha1.NodeLatencySpec{Endpoint: p.endpoint},
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
	right := object.Spec.Endpoint == p.endpoint && slices.EqualFunc(object.OwnerReferences, owners, sameOwner)
	if right && len(object.ManagedFields) == 0 {
		return object, nil
	}
	object = object.DeepCopy()
	object.Spec.Endpoint = p.endpoint
	object.OwnerReferences = owners
	// One empty entry tells the server to stop tracking who owns which field. With one writer that is of no use, and for a
	// list of peers it takes more room than the list.
	object.ManagedFields = []metav1.ManagedFieldsEntry{{}}
	object, err = p.objects.Update(ctx, object, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("mending the object: %w", err)
	}
	return object, nil
}

func sameOwner(a, b metav1.OwnerReference) bool {
	return a.APIVersion == b.APIVersion && a.Kind == b.Kind && a.Name == b.Name && a.UID == b.UID
}

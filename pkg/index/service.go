// SPDX-License-Identifier: Apache-2.0

package index

import (
	"sync/atomic"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// Service follows the Service of a name: what it selects, and how it is routed. Get it from an Index.
type Service struct {
	name types.NamespacedName
	now  atomic.Pointer[ServiceState]
}

// ServiceState is what a Service is now. It is immutable.
type ServiceState struct {
	// Workload is what the Service selects; nil where there is no such Service, or it has no selector.
	Workload *Workload
	// Nearest is set where callers keep to near endpoints (trafficDistribution, internalTrafficPolicy: Local).
	Nearest bool
}

// State returns what the Service is now.
func (s *Service) State() *ServiceState { return s.now.Load() }

// service is what the index knows of a Service, whether or not it exists and whether or not anyone follows it.
type service struct {
	selector map[string]string
	nearest  bool
	exists   bool
	follow   *Service
	refs     int
}

// Service follows a Service, which need not exist yet. Release it by ReleaseService.
func (x *Index) Service(namespace, name string) *Service {
	x.mu.Lock()
	defer x.mu.Unlock()
	key := types.NamespacedName{Namespace: namespace, Name: name}
	s, ok := x.services[key]
	if !ok {
		s = &service{}
		x.services[key] = s
	}
	s.refs++
	if s.follow == nil {
		s.follow = &Service{name: key}
		s.follow.now.Store(&ServiceState{})
		x.resolve(key, s)
	}
	return s.follow
}

// ReleaseService gives a followed Service back; nil is ignored.
func (x *Index) ReleaseService(f *Service) {
	if f == nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	s, ok := x.services[f.name]
	if !ok {
		return
	}
	if s.refs--; s.refs > 0 {
		return
	}
	if w := f.State().Workload; w != nil {
		x.releaseLocked(w)
	}
	s.follow = nil
	if !s.exists {
		delete(x.services, f.name)
	}
}

// SetService takes up a Service.
func (x *Index) SetService(svc *v1.Service) {
	x.mu.Lock()
	defer x.mu.Unlock()
	key := types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
	s, ok := x.services[key]
	if !ok {
		s = &service{}
		x.services[key] = s
	}
	nearest := svc.Spec.TrafficDistribution != nil && *svc.Spec.TrafficDistribution != "" ||
		svc.Spec.InternalTrafficPolicy != nil && *svc.Spec.InternalTrafficPolicy == v1.ServiceInternalTrafficPolicyLocal
	if s.exists && s.nearest == nearest && sameLabels(s.selector, svc.Spec.Selector) {
		return
	}
	s.exists, s.nearest, s.selector = true, nearest, svc.Spec.Selector
	x.resolve(key, s)
}

// DeleteService takes a Service out; those who follow it see that it selects nothing.
func (x *Index) DeleteService(namespace, name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	key := types.NamespacedName{Namespace: namespace, Name: name}
	s, ok := x.services[key]
	if !ok {
		return
	}
	s.exists, s.nearest, s.selector = false, false, nil
	x.resolve(key, s)
	if s.follow == nil {
		delete(x.services, key)
	}
}

// resolve brings those who follow a Service up to date.
func (x *Index) resolve(key types.NamespacedName, s *service) {
	if s.follow == nil {
		return
	}
	old := s.follow.State().Workload
	state := &ServiceState{Nearest: s.nearest}
	if len(s.selector) > 0 {
		state.Workload = x.podsLocked(key.Namespace, nil, labels.SelectorFromSet(s.selector))
	}
	s.follow.now.Store(state)
	if old != nil {
		x.releaseLocked(old)
	}
	x.routes.Add(1)
	x.notify()
}

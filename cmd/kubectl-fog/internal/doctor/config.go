// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubescheduler "k8s.io/kube-scheduler/config/v1"
	"sigs.k8s.io/yaml"

	"github.com/fogsched/fogsched/pkg/plugins/nodelatency"
	"github.com/fogsched/fogsched/pkg/plugins/nodemetrics"
	"github.com/fogsched/fogsched/pkg/source/prometheus"
)

// schedulerConfig is the scheduler's configuration, as a ConfigMap has it.
type schedulerConfig struct {
	configMap string
	kubescheduler.KubeSchedulerConfiguration
	// strict is what the scheduler would refuse to read; err is what nobody can read.
	strict, err error
}

// configKey is the file of the shipped ConfigMap.
const configKey = "config.yaml"

// findConfig finds the ConfigMap that the scheduler's pods mount, else the newest that looks like it.
func (f *facts) findConfig() {
	mounted := map[string]bool{}
	volumes := func(list []v1.Volume) {
		for i := range list {
			if c := list[i].ConfigMap; c != nil {
				mounted[c.Name] = true
			}
		}
	}
	for _, d := range f.schedulers() {
		volumes(d.Spec.Template.Spec.Volumes)
	}
	if len(mounted) == 0 {
		for _, p := range f.podsOf(schedulerApp) {
			volumes(p.Spec.Volumes)
		}
	}
	var best *v1.ConfigMap
	for i := range f.configMaps.items {
		c := &f.configMaps.items[i]
		text, ok := c.Data[configKey]
		if !ok || !strings.Contains(text, "KubeSchedulerConfiguration") || len(mounted) > 0 && !mounted[c.Name] {
			continue
		}
		if best == nil || best.CreationTimestamp.Before(&c.CreationTimestamp) {
			best = c
		}
	}
	if best != nil {
		f.config = parseConfig(best.Name, best.Data[configKey])
	}
}

func parseConfig(name, text string) *schedulerConfig {
	c := &schedulerConfig{configMap: name}
	if c.strict = yaml.UnmarshalStrict([]byte(text), &c.KubeSchedulerConfiguration); c.strict != nil {
		c.KubeSchedulerConfiguration = kubescheduler.KubeSchedulerConfiguration{}
		c.err = yaml.Unmarshal([]byte(text), &c.KubeSchedulerConfiguration)
	}
	return c
}

// lease returns where the schedulers agree on a leader.
func (f *facts) lease(namespace string) (l struct{ namespace, name string }) {
	l.namespace, l.name = namespace, schedulerApp
	if f.config != nil {
		l.namespace = cmp.Or(f.config.LeaderElection.ResourceNamespace, "kube-system")
		l.name = cmp.Or(f.config.LeaderElection.ResourceName, schedulerApp)
	}
	return l
}

// elects reports whether there is leader election: it is on unless it is turned off.
func (c *schedulerConfig) elects() bool {
	return c.LeaderElection.LeaderElect == nil || *c.LeaderElection.LeaderElect
}

func profileName(p *kubescheduler.KubeSchedulerProfile) string {
	if p.SchedulerName == nil {
		return v1.DefaultSchedulerName
	}
	return *p.SchedulerName
}

// profiles returns the names of all profiles, and of those with NodeLatency. Where there is no configuration, they are the shipped one's.
func (f *facts) profiles() (served, latency []string) {
	if f.config == nil || f.config.err != nil || len(f.config.Profiles) == 0 {
		return []string{schedulerApp}, []string{schedulerApp}
	}
	for i := range f.config.Profiles {
		p := &f.config.Profiles[i]
		served = append(served, profileName(p))
		if len(missingPoints(p)) < len(points) {
			latency = append(latency, profileName(p))
		}
	}
	return served, latency
}

// replacesDefault reports whether the scheduler serves the pods that name no scheduler.
func (f *facts) replacesDefault() bool {
	served, _ := f.profiles()
	return slices.Contains(served, v1.DefaultSchedulerName)
}

// An extension point, and where a configuration has its plugins.
type point struct {
	name string
	of   func(*kubescheduler.Plugins) *kubescheduler.PluginSet
	// without is what does not work without the plugin here.
	without string
}

// points are those at which NodeLatency works.
var points = []point{
	{"preFilter", func(p *kubescheduler.Plugins) *kubescheduler.PluginSet { return &p.PreFilter }, "it knows no pod's intent, and does nothing"},
	{"filter", func(p *kubescheduler.Plugins) *kubescheduler.PluginSet { return &p.Filter }, "limits of DoNotSchedule exclude no node"},
	{"postFilter", func(p *kubescheduler.Plugins) *kubescheduler.PluginSet { return &p.PostFilter }, "a pending pod's event has no nearest miss, and nothing wakes the pod when the network changes"},
	{"preScore", func(p *kubescheduler.Plugins) *kubescheduler.PluginSet { return &p.PreScore }, "nodes are not compared"},
	{"score", func(p *kubescheduler.Plugins) *kubescheduler.PluginSet { return &p.Score }, "nodes are not compared"},
	{"reserve", func(p *kubescheduler.Plugins) *kubescheduler.PluginSet { return &p.Reserve }, "replicas that are placed in a row do not see one another"},
	{"bind", func(p *kubescheduler.Plugins) *kubescheduler.PluginSet { return &p.Bind }, "no pod gets the annotation fogsched.dev/placement"},
}

// inTree are the default plugins in their order, for the order of those that are enabled at all points.
var inTree = []string{
	"SchedulingGates", "PrioritySort", "NodeUnschedulable", "NodeName", "TaintToleration", "NodeAffinity", "NodePorts", "NodeResourcesFit",
	"VolumeRestrictions", "NodeVolumeLimits", "VolumeBinding", "VolumeZone", "PodTopologySpread", "InterPodAffinity", defaultPreemption,
	"NodeResourcesBalancedAllocation", "ImageLocality", defaultBinder,
}

const (
	defaultBinder     = "DefaultBinder"
	defaultPreemption = "DefaultPreemption"
)

// order returns which plugins a profile may run at a point, in their order, by the rules of kube-scheduler: those that are named at the
// point and at all points come first, then those at all points, then the others. Whether a plugin has anything to do there is not known.
func order(p *kubescheduler.KubeSchedulerProfile, at point) []string {
	if p.Plugins == nil {
		return inTree
	}
	everywhere := merge(inTree, &p.Plugins.MultiPoint)
	here := at.of(p.Plugins)
	off := func(name string) bool {
		return slices.ContainsFunc(here.Disabled, func(d kubescheduler.Plugin) bool { return d.Name == name || d.Name == "*" })
	}
	var first, last []string
	for _, e := range here.Enabled {
		if slices.Contains(everywhere, e.Name) && !off("*") {
			first = append(first, e.Name)
		} else {
			last = append(last, e.Name)
		}
	}
	for _, name := range everywhere {
		if !off(name) && !slices.Contains(first, name) {
			first = append(first, name)
		}
	}
	return append(first, last...)
}

// merge returns the default plugins without those that a set disables, and with those that it enables.
func merge(defaults []string, set *kubescheduler.PluginSet) (out []string) {
	disabled := func(name string) bool {
		return slices.ContainsFunc(set.Disabled, func(d kubescheduler.Plugin) bool { return d.Name == name || d.Name == "*" })
	}
	for _, name := range defaults {
		if !disabled(name) {
			out = append(out, name)
		}
	}
	for _, e := range set.Enabled {
		if !slices.Contains(out, e.Name) {
			out = append(out, e.Name)
		}
	}
	return out
}

// missingPoints are those at which a profile does not run NodeLatency.
func missingPoints(p *kubescheduler.KubeSchedulerProfile) (out []point) {
	for _, at := range points {
		if !slices.Contains(order(p, at), nodelatency.Name) {
			out = append(out, at)
		}
	}
	return out
}

// weight returns that of NodeLatency's score.
func weight(p *kubescheduler.KubeSchedulerProfile) int32 {
	for _, set := range []*kubescheduler.PluginSet{&p.Plugins.Score, &p.Plugins.MultiPoint} {
		for _, e := range set.Enabled {
			if e.Name == nodelatency.Name && e.Weight != nil {
				return *e.Weight
			}
		}
	}
	return 1
}

// enabled reports whether a profile enables a plugin by name at any point.
func enabled(p *kubescheduler.KubeSchedulerProfile, name string) bool {
	if p.Plugins == nil {
		return false
	}
	sets := []*kubescheduler.PluginSet{&p.Plugins.MultiPoint}
	for _, at := range points {
		sets = append(sets, at.of(p.Plugins))
	}
	for _, s := range sets {
		if slices.ContainsFunc(s.Enabled, func(e kubescheduler.Plugin) bool { return e.Name == name }) {
			return true
		}
	}
	return false
}

// args returns the arguments of a plugin as the scheduler hands them over; nil for none.
func args(p *kubescheduler.KubeSchedulerProfile, plugin string) runtime.Object {
	for i := range p.PluginConfig {
		if c := &p.PluginConfig[i]; c.Name == plugin && len(c.Args.Raw) > 0 {
			return &runtime.Unknown{Raw: c.Args.Raw, ContentType: runtime.ContentTypeJSON}
		}
	}
	return nil
}

// checkArgs decodes the arguments of our plugins as the scheduler does. Files that they name are in the scheduler's pod and not here.
func checkArgs(p *kubescheduler.KubeSchedulerProfile) (errs []error) {
	for name, check := range map[string]func(runtime.Object) error{nodelatency.Name: nodelatency.CheckArgs, nodemetrics.Name: nodemetrics.CheckArgs} {
		if !enabled(p, name) {
			continue
		}
		if err := withoutFiles(check(args(p, name))); err != nil {
			errs = append(errs, err)
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errs
}

// withoutFiles leaves out that a file is not there.
func withoutFiles(err error) error {
	var list utilerrors.Aggregate
	if !errors.As(err, &list) {
		return err
	}
	missingFile := func(e error) bool {
		var f *field.Error
		return errors.As(e, &f) && strings.HasSuffix(f.Field, "File") && strings.HasPrefix(f.Detail, "open ")
	}
	kept := utilerrors.FilterOut(list, missingFile)
	if kept == nil {
		return nil
	}
	head, _, _ := strings.Cut(err.Error(), ": ")
	return fmt.Errorf("%s: %w", head, kept)
}

// prometheusArgs are what a plugin's arguments say of its Prometheus.
type prometheusArgs struct {
	plugin  string
	address string
}

// prometheuses are those that the configuration names, each once.
func (f *facts) prometheuses() (out []prometheusArgs) {
	if f.config == nil {
		return nil
	}
	seen := map[string]bool{}
	for i := range f.config.Profiles {
		p := &f.config.Profiles[i]
		for _, plugin := range []string{nodelatency.Name, nodemetrics.Name} {
			raw, ok := args(p, plugin).(*runtime.Unknown)
			if !ok || !enabled(p, plugin) {
				continue
			}
			var a struct {
				Prometheus *prometheus.Config `json:"prometheus"`
			}
			if yaml.Unmarshal(raw.Raw, &a) != nil || a.Prometheus == nil || a.Prometheus.Address == "" || seen[a.Prometheus.Address] {
				continue
			}
			seen[a.Prometheus.Address] = true
			out = append(out, prometheusArgs{plugin: plugin, address: a.Prometheus.Address})
		}
	}
	return out
}

type serviceRef struct {
	namespace, name string
	port            string // as in the URL, or the scheme's
}

// service returns the Service that an address names, as "prometheus.monitoring", "….svc" or "….svc.cluster.local" do.
func (p prometheusArgs) service() (serviceRef, bool) {
	u, err := url.Parse(p.address)
	if err != nil {
		return serviceRef{}, false
	}
	parts := strings.Split(strings.TrimSuffix(u.Hostname(), "."), ".")
	if len(parts) < 2 || len(parts) > 2 && parts[2] != "svc" || strings.Trim(parts[len(parts)-1], "0123456789") == "" {
		return serviceRef{}, false
	}
	port := cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	return serviceRef{namespace: parts[1], name: parts[0], port: port}, true
}

// interest returns the ConfigMap that the arguments name for the probers, "" for none.
func (f *facts) interest() string {
	if f.config == nil {
		return ""
	}
	for i := range f.config.Profiles {
		p := &f.config.Profiles[i]
		raw, ok := args(p, nodelatency.Name).(*runtime.Unknown)
		if !ok || !enabled(p, nodelatency.Name) {
			continue
		}
		var a struct {
			Interest string `json:"interest"`
		}
		if yaml.Unmarshal(raw.Raw, &a) == nil && a.Interest != "" {
			return a.Interest
		}
	}
	return ""
}

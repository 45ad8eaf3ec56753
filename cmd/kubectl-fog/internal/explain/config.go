// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/scheme"
	_ "sigs.k8s.io/scheduler-plugins/apis/config/scheme" // the arguments of its plugins

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/manifests"
	"github.com/fogsched/fogsched/pkg/plugins/nodelatency"
)

// configKey is the file of the scheduler's ConfigMap.
const configKey = "config.yaml"

// configuration is the scheduler's, as far as it can be asked from outside.
type configuration struct {
	// from says where it was read.
	from     string
	profiles []config.KubeSchedulerProfile
	// without says what is not judged here.
	without []string
	notes   []string
}

// readConfiguration reads the configuration of the scheduler: from a file, or from the ConfigMap that its Deployment mounts. Where neither is to
// be had, the shipped one stands for it, and a note says so.
func readConfiguration(ctx context.Context, file, namespace string, client kubernetes.Interface) (*configuration, error) {
	c := &configuration{}
	text := manifests.SchedulerConfig
	if file != "" {
		var err error
		if text, err = os.ReadFile(file); err != nil {
			return nil, fmt.Errorf("--scheduler-config: %w", err)
		}
		c.from = file
	} else {
		found, from, err := deployedConfiguration(ctx, namespace, client)
		switch {
		case err == nil:
			text, c.from = found, from
		case apierrors.IsForbidden(err):
			c.from = "the shipped configuration"
			c.notes = append(c.notes, fmt.Sprintf("The scheduler's own configuration was not read, for want of the verb get on deployments.apps and configmaps in namespace %s: "+
				"the shipped one stands for it (or give --scheduler-config FILE).", namespace))
		default:
			c.from = "the shipped configuration"
			c.notes = append(c.notes, fmt.Sprintf("The scheduler's own configuration was not found (%s): the shipped one stands for it (or give --scheduler-config FILE).", cli.Explain(err)))
		}
	}
	if err := c.decode(text); err != nil {
		return nil, fmt.Errorf("the scheduler's configuration (%s): %w", c.from, err)
	}
	return c, nil
}

// deployedConfiguration finds the ConfigMap that the Deployment fogsched mounts.
func deployedConfiguration(ctx context.Context, namespace string, client kubernetes.Interface) (text []byte, from string, err error) {
	list, err := client.AppsV1().Deployments(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=fogsched"})
	if err != nil {
		return nil, "", err
	}
	for i := range list.Items {
		for _, v := range list.Items[i].Spec.Template.Spec.Volumes {
			if v.ConfigMap == nil {
				continue
			}
			cm, err := client.CoreV1().ConfigMaps(namespace).Get(ctx, v.ConfigMap.Name, metav1.GetOptions{})
			if err != nil {
				return nil, "", err
			}
			if text, ok := cm.Data[configKey]; ok {
				return []byte(text), "ConfigMap " + namespace + "/" + cm.Name, nil
			}
		}
	}
	return nil, "", fmt.Errorf("no Deployment with the label app.kubernetes.io/name=fogsched and a %s in namespace %s", configKey, namespace)
}

// Plugins that ask Prometheus or objects of kinds that are not read here.
var external = []string{
	"NodeMetrics", "NetworkOverhead", "TopologicalSort", "Coscheduling", "TargetLoadPacking", "LoadVariationRiskBalancing", "LowRiskOverCommitment", "Peaks",
}

func (c *configuration) decode(text []byte) error {
	obj, _, err := scheme.Codecs.UniversalDecoder().Decode(text, nil, nil)
	if err != nil {
		return err
	}
	cfg, ok := obj.(*config.KubeSchedulerConfiguration)
	if !ok {
		return fmt.Errorf("a %T is no KubeSchedulerConfiguration", obj)
	}
	c.profiles = cfg.Profiles
	for i := range c.profiles {
		p := &c.profiles[i]
		for k := range p.PluginConfig {
			if p.PluginConfig[k].Name != nodelatency.Name {
				continue
			}
			args, without, err := nodelatency.OfflineArgs(p.PluginConfig[k].Args)
			if err != nil {
				return err
			}
			c.leaveOut(without...)
			if p.PluginConfig[k].Args, err = nodelatency.Encode(args); err != nil {
				return err
			}
		}
		p.PluginConfig = slices.DeleteFunc(p.PluginConfig, func(pc config.PluginConfig) bool { return slices.Contains(external, pc.Name) })
		for _, set := range pluginSets(p.Plugins) {
			set.Enabled = slices.DeleteFunc(set.Enabled, func(p config.Plugin) bool {
				if slices.Contains(external, p.Name) {
					c.leaveOut("plugin " + p.Name)
					return true
				}
				return false
			})
		}
	}
	return nil
}

func (c *configuration) leaveOut(what ...string) {
	for _, w := range what {
		if !slices.Contains(c.without, w) {
			c.without = append(c.without, w)
		}
	}
}

func pluginSets(p *config.Plugins) []*config.PluginSet {
	if p == nil {
		return nil
	}
	return []*config.PluginSet{
		&p.PreEnqueue, &p.QueueSort, &p.PreFilter, &p.Filter, &p.PostFilter, &p.PreScore, &p.Score, &p.Reserve, &p.Permit, &p.PreBind, &p.Bind, &p.PostBind, &p.MultiPoint,
	}
}

// profileFor returns the profile that a pod is explained with: its own, or the first that has NodeLatency where the pod is another scheduler's.
func (c *configuration) profileFor(pod *v1.Pod) (name string, own bool, err error) {
	for _, p := range c.profiles {
		if p.SchedulerName == pod.Spec.SchedulerName {
			return p.SchedulerName, true, nil
		}
	}
	for _, p := range c.profiles {
		for _, set := range pluginSets(p.Plugins) {
			if slices.ContainsFunc(set.Enabled, func(p config.Plugin) bool { return p.Name == nodelatency.Name }) {
				return p.SchedulerName, false, nil
			}
		}
	}
	return "", false, fmt.Errorf("no profile of %s enables the plugin %s", c.from, nodelatency.Name)
}

var silent = logr.Discard()

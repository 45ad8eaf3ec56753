// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// CompletionFunc is what cobra asks for the words that may come next.
type CompletionFunc = func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective)

// completionPatience is how long the shell waits for a cluster that does not answer.
const completionPatience = 3 * time.Second

// complete offers what a kind's objects yield. What goes wrong on the way is no matter: the shell offers nothing then.
func (o *Options) complete(cmd *cobra.Command, k Kind, words func(*Cluster) []string, toComplete string) []string {
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completionPatience)
	defer cancel()
	c, err := o.Read(ctx, []Kind{k})
	if err != nil {
		return nil
	}
	all := words(c)
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(w string) bool { return !strings.HasPrefix(w, toComplete) })
}

// CompleteNodes offers the names of nodes that are not among the arguments yet.
func (o *Options) CompleteNodes(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	return o.complete(cmd, Nodes, func(c *Cluster) (names []string) {
		for _, n := range c.Nodes {
			if !slices.Contains(args, n.Name) {
				names = append(names, n.Name)
			}
		}
		return names
	}, toComplete), cobra.ShellCompDirectiveNoFileComp
}

// CompletePolicies offers the names of the LatencyPolicy objects of the namespace.
func (o *Options) CompletePolicies(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	namespace, err := o.Namespace()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return o.complete(cmd, Policies, func(c *Cluster) (names []string) {
		for _, p := range c.Policies {
			if p.Namespace == namespace && !slices.Contains(args, p.Name) {
				names = append(names, p.Name)
			}
		}
		return names
	}, toComplete), cobra.ShellCompDirectiveNoFileComp
}

// CompleteNodeSelector offers key=value of the labels that nodes have: the keys first, then one key's values. What is before the last comma
// stays.
func (o *Options) CompleteNodeSelector(cmd *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	return o.completeSelector(cmd, Nodes, func(c *Cluster) (labels []map[string]string) {
		for _, n := range c.Nodes {
			labels = append(labels, n.Labels)
		}
		return labels
	}, toComplete)
}

// CompletePolicySelector is CompleteNodeSelector for the labels of LatencyPolicy objects.
func (o *Options) CompletePolicySelector(cmd *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	return o.completeSelector(cmd, Policies, func(c *Cluster) (labels []map[string]string) {
		for _, p := range c.Policies {
			labels = append(labels, p.Labels)
		}
		return labels
	}, toComplete)
}

func (o *Options) completeSelector(cmd *cobra.Command, k Kind, labels func(*Cluster) []map[string]string, toComplete string) ([]string, cobra.ShellCompDirective) {
	before, last := "", toComplete
	if i := strings.LastIndexByte(toComplete, ','); i >= 0 {
		before, last = toComplete[:i+1], toComplete[i+1:]
	}
	key, _, hasKey := strings.Cut(last, "=")
	directive := cobra.ShellCompDirectiveNoFileComp
	if !hasKey {
		directive |= cobra.ShellCompDirectiveNoSpace
	}
	return o.complete(cmd, k, func(c *Cluster) []string {
		words := map[string]struct{}{}
		for _, l := range labels(c) {
			if !hasKey {
				for k := range l {
					words[before+k+"="] = struct{}{}
				}
			} else if v, ok := l[key]; ok {
				words[before+key+"="+v] = struct{}{}
			}
		}
		return slices.Collect(maps.Keys(words))
	}, toComplete), directive
}

// CompleteNamespaces offers the names of namespaces.
func (o *Options) CompleteNamespaces(cmd *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	return o.complete(cmd, Namespaces, func(c *Cluster) (names []string) {
		for _, n := range c.Namespaces {
			names = append(names, n.Name)
		}
		return names
	}, toComplete), cobra.ShellCompDirectiveNoFileComp
}

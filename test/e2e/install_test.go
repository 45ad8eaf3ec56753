// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/e2e-framework/klient/k8s"
	"sigs.k8s.io/e2e-framework/klient/k8s/resources"
	"sigs.k8s.io/e2e-framework/pkg/envconf"

	"github.com/fogsched/fogsched/test/cluster"
)

const (
	// overlay has two schedulers, and images that were loaded into the nodes.
	overlay         = "manifests/overlays/kind"
	systemNamespace = "fogsched-system"
	prober          = "fogprobe" // the DaemonSet, and the app.kubernetes.io/name of its pods
	scheduler       = "fogsched" // the Deployment, the app.kubernetes.io/name of its pods, and the name pods ask for

	// oursLabel is on the namespace of an installation that the suite made.
	oursLabel = "e2e.fogsched.dev/installed"

	imageTag = "e2e" // of the suite's own images
	// probeInterval is shorter than that of the shipped DaemonSet, so that the tests see a change sooner. All else is as shipped.
	probeInterval = 2 * time.Second
)

// image returns the reference of one of the suite's own images.
func image(name string) string { return os.Getenv(imagesEnv) + name + ":" + imageTag }

// pullPolicy is Never where the images were loaded into the nodes.
func pullPolicy() corev1.PullPolicy {
	if os.Getenv(imagesEnv) == "" {
		return corev1.PullNever
	}
	return corev1.PullIfNotPresent
}

// install applies the shipped overlay with the images of this run, unless fogsched is there already.
func install(ctx context.Context, cfg *envconf.Config) (context.Context, error) {
	ns, err := world.client.CoreV1().Namespaces().Get(ctx, systemNamespace, metav1.GetOptions{})
	switch {
	case err == nil && ns.Labels[oursLabel] == "":
		say("namespace %s is there: testing the fogsched that is installed", systemNamespace)
	case err == nil || apierrors.IsNotFound(err):
		say("installing %s", overlay)
		world.ours = true
		objects, err := product()
		if err != nil {
			return ctx, err
		}
		for _, o := range objects {
			if err := apply(ctx, cfg, o); err != nil {
				return ctx, err
			}
		}
	default:
		return ctx, fmt.Errorf("looking for namespace %s: %w", systemNamespace, err)
	}
	if err := check(ctx, 2*time.Minute, "fogsched and a prober on every node to be ready", installed); err != nil {
		return ctx, fmt.Errorf("%w\n%s", err, whyNotRunning(ctx, systemNamespace))
	}
	say("fogsched and a prober on every node are ready; waiting until they have measured one another")
	err = check(ctx, 2*time.Minute, "the probers to have measured one another", func(ctx context.Context) (string, error) {
		m, err := measuredRTTs(ctx)
		if err != nil {
			return "", err
		}
		nodes, err := readyNodes(ctx)
		if err != nil {
			return "", err
		}
		return m.missing(nodes), nil
	})
	return ctx, err
}

// apply does what `kubectl apply --server-side` does.
func apply(ctx context.Context, cfg *envconf.Config, o *unstructured.Unstructured) error {
	body, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encoding %s %s: %w", o.GetKind(), o.GetName(), err)
	}
	force := true
	err = cfg.Client().Resources().Patch(ctx, o, k8s.Patch{PatchType: types.ApplyPatchType, Data: body}, func(opts *metav1.PatchOptions) {
		opts.FieldManager, opts.Force = "fogsched-e2e", &force
	})
	if err != nil {
		return fmt.Errorf("applying %s %s: %w", o.GetKind(), o.GetName(), err)
	}
	return nil
}

// product is the shipped overlay with faster probes, and with the images of a registry where imagesEnv names one.
func product() ([]*unstructured.Unstructured, error) {
	manifest, err := cluster.Kustomize(overlay)
	if err != nil {
		return nil, err
	}
	objects, err := cluster.ParseYAML(manifest)
	if err != nil {
		return nil, err
	}
	for _, o := range objects {
		switch o.GetKind() {
		case "Namespace":
			labels := o.GetLabels()
			labels[oursLabel] = "true"
			o.SetLabels(labels)
			continue
		case "Deployment", "DaemonSet":
		default:
			continue
		}
		containers, _, err := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
		if err != nil || len(containers) != 1 {
			return nil, fmt.Errorf("%s %s has %d containers, want 1 (%w)", o.GetKind(), o.GetName(), len(containers), err)
		}
		container := containers[0].(map[string]any)
		if prefix := os.Getenv(imagesEnv); prefix != "" {
			container["image"] = prefix + container["image"].(string)
			container["imagePullPolicy"] = string(pullPolicy())
		}
		if o.GetName() == prober {
			args, _, err := unstructured.NestedSlice(container, "args")
			if err != nil {
				return nil, err
			}
			container["args"] = append(args, "--interval="+probeInterval.String())
		}
		if err := unstructured.SetNestedSlice(o.Object, containers, "spec", "template", "spec", "containers"); err != nil {
			return nil, err
		}
	}
	return objects, nil
}

// uninstall removes what install made, where the cluster goes on without the suite.
func uninstall(ctx context.Context, cfg *envconf.Config) (context.Context, error) {
	if !world.ours || world.machines != nil {
		return ctx, nil
	}
	say("removing %s", overlay)
	objects, err := product()
	if err != nil {
		return ctx, err
	}
	slices.Reverse(objects)
	for _, o := range objects {
		err := cfg.Client().Resources().Delete(ctx, o, resources.WithDeletePropagation(string(metav1.DeletePropagationForeground)))
		if err != nil && !apierrors.IsNotFound(err) {
			fmt.Fprintf(os.Stderr, "removing %s %s: %v\n", o.GetKind(), o.GetName(), err)
		}
	}
	return ctx, nil
}

// installed says what keeps the installation from being complete.
func installed(ctx context.Context) (amiss string, err error) {
	d, err := world.client.AppsV1().Deployments(systemNamespace).Get(ctx, scheduler, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	want := *d.Spec.Replicas
	if s := d.Status; s.ObservedGeneration != d.Generation || s.UpdatedReplicas < want || s.Replicas > s.UpdatedReplicas || s.AvailableReplicas < want {
		return fmt.Sprintf("Deployment %s: want %d replicas, has %d, %d of them up to date, %d available", scheduler, want, s.Replicas, s.UpdatedReplicas, s.AvailableReplicas), nil
	}
	set, err := world.client.AppsV1().DaemonSets(systemNamespace).Get(ctx, prober, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	if s := set.Status; s.ObservedGeneration != set.Generation || s.UpdatedNumberScheduled < s.DesiredNumberScheduled {
		return fmt.Sprintf("DaemonSet %s: %d of %d pods up to date", prober, s.UpdatedNumberScheduled, s.DesiredNumberScheduled), nil
	}
	return probersReady(ctx)
}

// probersReady says on which Ready nodes no prober is Ready.
func probersReady(ctx context.Context) (amiss string, err error) {
	nodes, err := readyNodes(ctx)
	if err != nil {
		return "", err
	}
	pods, err := podsOf(ctx, systemNamespace, "app.kubernetes.io/name="+prober)
	if err != nil {
		return "", err
	}
	var without []string
	for _, n := range nodes {
		if !slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.Spec.NodeName == n && isReady(&p) }) {
			without = append(without, n)
		}
	}
	if len(without) > 0 {
		return fmt.Sprintf("no ready prober on %v", without), nil
	}
	return "", nil
}

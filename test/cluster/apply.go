// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const fieldManager = "fogsched-test"

// CRDs is the folder of the product's custom resource definitions, for ApplyKustomize.
const CRDs = "manifests/base/crds"

// Kustomize builds a kustomization. A relative folder is one of the repository.
func Kustomize(dir string) ([]byte, error) {
	if !filepath.IsAbs(dir) {
		root, err := RepoRoot()
		if err != nil {
			return nil, err
		}
		dir = filepath.Join(root, dir)
	}
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return nil, fmt.Errorf("building the kustomization %s: %w", dir, err)
	}
	return resources.AsYaml()
}

// ApplyKustomize builds a kustomization and applies it. A relative folder is one of the repository.
func (c *Cluster) ApplyKustomize(ctx context.Context, dir string) error {
	manifest, err := Kustomize(dir)
	if err != nil {
		return err
	}
	return c.ApplyYAML(ctx, manifest)
}

// ApplyYAML applies manifests of one or more documents each by server-side apply, with strict validation of the fields. It
// returns when the custom resource definitions among them are served. Objects without a namespace go to "default".
func (c *Cluster) ApplyYAML(ctx context.Context, manifests ...[]byte) error {
	var objects []*unstructured.Unstructured
	for _, manifest := range manifests {
		parsed, err := ParseYAML(manifest)
		if err != nil {
			return err
		}
		objects = append(objects, parsed...)
	}
	return c.Apply(ctx, objects...)
}

// Apply does for objects what ApplyYAML does for manifests.
func (c *Cluster) Apply(ctx context.Context, objects ...*unstructured.Unstructured) error {
	// Namespaces and definitions come first; the order is kept otherwise.
	first := func(o *unstructured.Unstructured) int {
		switch o.GetKind() {
		case "Namespace", "CustomResourceDefinition":
			return 0
		}
		return 1
	}
	objects = slices.Clone(objects)
	slices.SortStableFunc(objects, func(a, b *unstructured.Unstructured) int { return first(a) - first(b) })

	served := true
	for _, o := range objects {
		if o.GetKind() != "CustomResourceDefinition" && !served {
			if err := c.untilServed(ctx, objects); err != nil {
				return err
			}
			served = true
		}
		if err := c.apply(ctx, o); err != nil {
			return err
		}
		if o.GetKind() == "CustomResourceDefinition" {
			served = false
		}
	}
	if !served {
		return c.untilServed(ctx, objects)
	}
	return nil
}

// Resource returns the dynamic client for the kind and the namespace of an object.
func (c *Cluster) Resource(o *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	kind := o.GroupVersionKind()
	mapping, err := c.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if meta.IsNoMatchError(err) { // it may have been installed since the mapper last looked
		c.mapper.Reset()
		mapping, err = c.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	}
	if err != nil {
		return nil, fmt.Errorf("finding the resource of %s: %w", kind, err)
	}
	if mapping.Scope.Name() != meta.RESTScopeNameNamespace {
		return c.dynamic.Resource(mapping.Resource), nil
	}
	ns := o.GetNamespace()
	if ns == "" {
		ns = metav1.NamespaceDefault
	}
	return c.dynamic.Resource(mapping.Resource).Namespace(ns), nil
}

func (c *Cluster) apply(ctx context.Context, o *unstructured.Unstructured) error {
	resource, err := c.Resource(o)
	if err != nil {
		return err
	}
	body, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encoding %s %s: %w", o.GetKind(), o.GetName(), err)
	}
	force := true
	_, err = resource.Patch(ctx, o.GetName(), types.ApplyPatchType, body, metav1.PatchOptions{
		FieldManager: fieldManager, Force: &force, FieldValidation: metav1.FieldValidationStrict,
	})
	if err != nil {
		return fmt.Errorf("applying %s %s: %w", o.GetKind(), o.GetName(), err)
	}
	return nil
}

// untilServed waits until the API server serves every kind that the definitions among the objects define.
func (c *Cluster) untilServed(ctx context.Context, objects []*unstructured.Unstructured) error {
	for _, o := range objects {
		if o.GetKind() != "CustomResourceDefinition" {
			continue
		}
		group, _, _ := unstructured.NestedString(o.Object, "spec", "group")
		plural, _, _ := unstructured.NestedString(o.Object, "spec", "names", "plural")
		versions, _, _ := unstructured.NestedSlice(o.Object, "spec", "versions")
		for _, v := range versions {
			version, ok := v.(map[string]any)
			if !ok || version["served"] != true {
				continue
			}
			name, _ := version["name"].(string)
			gvr := schema.GroupVersionResource{Group: group, Version: name, Resource: plural}
			err := c.until(ctx, gvr.String()+" to be served", func(ctx context.Context) error {
				// Discovery and the resource itself become available one after the other.
				list, err := c.client.Discovery().ServerResourcesForGroupVersion(gvr.GroupVersion().String())
				if err != nil {
					return err
				}
				if !slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == plural }) {
					return fmt.Errorf("%s is not in the discovery document", gvr)
				}
				_, err = c.dynamic.Resource(gvr).List(ctx, metav1.ListOptions{Limit: 1})
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	c.mapper.Reset()
	return nil
}

// ParseYAML reads the objects of a manifest of one or more documents.
func ParseYAML(manifest []byte) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(manifest)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading a manifest: %w", err)
		}
		content, err := yaml.YAMLToJSONStrict(document)
		if err != nil {
			return nil, fmt.Errorf("reading a manifest: %w", err)
		}
		if string(content) == "null" { // nothing but comments
			continue
		}
		o := &unstructured.Unstructured{}
		if err := o.UnmarshalJSON(content); err != nil {
			return nil, fmt.Errorf("reading a manifest: %w", err)
		}
		objects = append(objects, o)
	}
}

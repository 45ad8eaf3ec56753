// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// definition is what is used of a CustomResourceDefinition.
type definition struct {
	Spec struct {
		Group string `json:"group"`
		Scope string `json:"scope"`
		Names struct {
			Kind       string   `json:"kind"`
			ShortNames []string `json:"shortNames"`
		} `json:"names"`
		Versions []struct {
			Name    string `json:"name"`
			Columns []struct {
				Name        string `json:"name"`
				Description string `json:"description"`
			} `json:"additionalPrinterColumns"`
			Schema struct {
				Root schema `json:"openAPIV3Schema"`
			} `json:"schema"`
		} `json:"versions"`
	} `json:"spec"`
}

// schema is what is used of a JSON schema.
type schema struct {
	Type        string            `json:"type"`
	Format      string            `json:"format"`
	Description string            `json:"description"`
	Default     json.RawMessage   `json:"default"`
	Enum        []string          `json:"enum"`
	Minimum     *float64          `json:"minimum"`
	Maximum     *float64          `json:"maximum"`
	MinItems    *int              `json:"minItems"`
	MaxItems    *int              `json:"maxItems"`
	MaxLength   *int              `json:"maxLength"`
	Pattern     string            `json:"pattern"`
	Properties  map[string]schema `json:"properties"`
	Required    []string          `json:"required"`
	Items       *schema           `json:"items"`
	Rules       []struct {
		Message string `json:"message"`
	} `json:"x-kubernetes-validations"`
}

// crd writes what a custom resource definition says of its fields.
func crd(plural string) func(string, *strings.Builder) error {
	return func(root string, w *strings.Builder) error {
		data, err := os.ReadFile(filepath.Join(root, "manifests", "base", "crds", "fogsched.dev_"+plural+".yaml"))
		if err != nil {
			return err
		}
		var d definition
		if err := yaml.Unmarshal(data, &d); err != nil {
			return err
		}
		v := d.Spec.Versions[0]
		names := d.Spec.Names
		schema := v.Schema.Root
		fmt.Fprintf(w, "\n`apiVersion: %s/%s`, `kind: %s`, %s. For short: `kubectl get %s`.\n\n%s\n", d.Spec.Group, v.Name, names.Kind,
			map[bool]string{true: "in a namespace", false: "of the cluster"}[d.Spec.Scope == "Namespaced"], names.ShortNames[0],
			escape(strings.Join(strings.Fields(schema.Description), " ")))
		if rules := rulesOf(schema.Properties["spec"]); rules != "" {
			fmt.Fprintf(w, "\nElse refused: %s.\n", rules)
		}
		for _, part := range []string{"spec", "status"} {
			fmt.Fprintf(w, "\n## %s\n\n", map[string]string{"spec": "Spec", "status": "Status"}[part])
			w.WriteString("| field | type | default | meaning |\n|---|---|---|---|\n")
			fields(w, part, schema.Properties[part])
		}
		w.WriteString("\n## What kubectl shows\n\n| column | meaning |\n|---|---|\n")
		for _, c := range v.Columns {
			fmt.Fprintf(w, "| %s | %s |\n", strings.ToUpper(c.Name), cell(c.Description))
		}
		return nil
	}
}

// wellKnown are the types of Kubernetes that everybody knows; their fields are not listed.
var wellKnown = map[string]string{
	"matchLabels matchExpressions":                                     "label selector",
	"lastTransitionTime message observedGeneration reason status type": "condition",
}

func known(s schema) string {
	keys := slices.Sorted(maps.Keys(s.Properties))
	for k, name := range wellKnown {
		want := strings.Fields(k)
		slices.Sort(want)
		if slices.Equal(want, keys) {
			return name
		}
	}
	return ""
}

func fields(w *strings.Builder, path string, s schema) {
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		f := s.Properties[name]
		at := path + "." + name
		item := f
		kind := f.Type
		if f.Type == "array" {
			item = *f.Items
			at += "[]"
			kind = "list"
			if item.Type != "object" {
				kind = "list of " + item.Type + "s"
			}
		}
		isKnown := known(item)
		if isKnown != "" {
			kind = strings.Replace(kind, "object", isKnown, 1)
			if f.Type == "array" {
				kind = "list of " + isKnown + "s"
			}
		}
		if f.Format == "date-time" {
			kind = "time"
		}
		text := strings.Join(strings.Fields(f.Description), " ")
		for _, b := range bounds(f, item) {
			if !strings.Contains(text, b) { // its comment says so, too
				text = strings.TrimPrefix(strings.TrimSuffix(text, ".")+". "+b+".", ". ")
			}
		}
		def := ""
		switch {
		case f.Default != nil:
			def = code(strings.Trim(string(f.Default), `"`))
		case slices.Contains(s.Required, name):
			def = "required"
		}
		fmt.Fprintf(w, "| `%s` | %s | %s | %s |\n", strings.TrimPrefix(at, path[:strings.IndexAny(path+".", ".")]+"."), kind, def, cell(text))
		if isKnown == "" && len(item.Properties) > 0 {
			fields(w, at, item)
		}
	}
}

// bounds says what the API server accepts.
func bounds(f, item schema) []string {
	var parts []string
	if len(f.Enum) > 0 {
		var words []string
		for _, e := range f.Enum {
			words = append(words, code(e))
		}
		parts = append(parts, "One of "+strings.Join(words, ", "))
	}
	switch {
	case f.Minimum != nil && f.Maximum != nil:
		parts = append(parts, fmt.Sprintf("%.0f to %.0f", *f.Minimum, *f.Maximum))
	case f.Minimum != nil:
		parts = append(parts, fmt.Sprintf("At least %.0f", *f.Minimum))
	}
	switch {
	case f.MinItems != nil && f.MaxItems != nil && *f.MinItems == *f.MaxItems:
		parts = append(parts, fmt.Sprintf("%d items", *f.MaxItems))
	case f.MaxItems != nil:
		parts = append(parts, fmt.Sprintf("At most %d items", *f.MaxItems))
	}
	if f.Pattern != "" {
		parts = append(parts, "Pattern "+code(f.Pattern))
	}
	if f.MaxLength != nil {
		parts = append(parts, fmt.Sprintf("At most %d characters", *f.MaxLength))
	}
	if r := rulesOf(f); r != "" {
		parts = append(parts, "Else refused: "+r)
	}
	if f.Type == "array" {
		if r := rulesOf(item); r != "" {
			parts = append(parts, "Each, else refused: "+r)
		}
	}
	return parts
}

func rulesOf(s schema) string {
	var rules []string
	for _, r := range s.Rules {
		rules = append(rules, r.Message)
	}
	return strings.Join(rules, "; ")
}

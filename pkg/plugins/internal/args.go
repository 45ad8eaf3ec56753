// SPDX-License-Identifier: Apache-2.0

// Package internal is what fogsched's plugins share: strict decoding of their arguments, the one normaliser, and the guard
// against panics.
package internal

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// DecodeArgs decodes a plugin's arguments over the defaults that into holds. An unknown or duplicate field is an error.
// Absent arguments leave the defaults.
func DecodeArgs(plugin string, obj runtime.Object, into any) error {
	if obj == nil {
		return nil
	}
	u, ok := obj.(*runtime.Unknown)
	if !ok {
		return fmt.Errorf("pluginConfig of %s: want %sArgs as YAML or JSON, got %T", plugin, plugin, obj)
	}
	if len(u.Raw) == 0 {
		return nil
	}
	data, err := yaml.YAMLToJSONStrict(u.Raw)
	if err != nil {
		return fmt.Errorf("pluginConfig of %s: %w", plugin, err)
	}
	if errs := badFields(data, into); len(errs) > 0 {
		return fmt.Errorf("pluginConfig of %s: %w", plugin, errs.ToAggregate())
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(data, into); err != nil {
		return fmt.Errorf("pluginConfig of %s: %w", plugin, err)
	}
	return nil
}

// badFields decodes each field by itself, to tell where a bad one stands and to tell of all of them at once.
func badFields(data []byte, into any) field.ErrorList {
	var fields map[string]any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(data, &fields); err != nil {
		return nil // the decoder says what it is instead of a map
	}
	var errs field.ErrorList
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		one, err := json.Marshal(map[string]any{name: fields[name]})
		if err != nil {
			return nil
		}
		strict, err := kjson.UnmarshalStrict(one, reflect.New(reflect.TypeOf(into).Elem()).Interface())
		if err == nil && len(strict) > 0 {
			err = strict[0]
		}
		if err != nil {
			errs = append(errs, field.Invalid(field.NewPath("args", name), fields[name], err.Error()))
		}
	}
	return errs
}

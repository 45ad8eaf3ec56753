// SPDX-License-Identifier: Apache-2.0

// Package internal is what fogsched's plugins share: strict decoding of their arguments, the one normaliser, and the guard
// against panics.
package internal

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
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
	if err := yaml.UnmarshalStrict(u.Raw, into); err != nil {
		return fmt.Errorf("pluginConfig of %s: %w", plugin, err)
	}
	return nil
}

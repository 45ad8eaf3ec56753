// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fogsched/fogsched/pkg/plugins/internal"
	"github.com/fogsched/fogsched/pkg/store"
)

// Args are the plugin's arguments, the args of its pluginConfig.
type Args struct {
	metav1.TypeMeta `json:",inline"`

	// MaxAge is the age above which a measurement is no longer used, 10s to 24h. Default 5m: probers publish at least once
	// a minute, so that four reports in a row can be missed.
	MaxAge metav1.Duration `json:"maxAge,omitempty"`

	// ZonesFile is the path of a table of round-trip times between zones, for pairs that nobody measured. Default none.
	ZonesFile string `json:"zonesFile,omitempty"`
}

func getArgs(obj runtime.Object) (*Args, error) {
	args := &Args{MaxAge: metav1.Duration{Duration: store.DefaultMaxAge}}
	if err := internal.DecodeArgs(Name, obj, args); err != nil {
		return nil, err
	}
	if errs := validateArgs(args); len(errs) > 0 {
		return nil, fmt.Errorf("pluginConfig of %s: %w", Name, errs.ToAggregate())
	}
	return args, nil
}

func validateArgs(args *Args) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("args")
	if kind := args.Kind; kind != "" && kind != Name+"Args" {
		errs = append(errs, field.NotSupported(path.Child("kind"), kind, []string{Name + "Args"}))
	}
	if d := args.MaxAge.Duration; d < 10*time.Second || d > 24*time.Hour {
		errs = append(errs, field.Invalid(path.Child("maxAge"), d.String(), "must be 10s to 24h"))
	}
	return errs
}

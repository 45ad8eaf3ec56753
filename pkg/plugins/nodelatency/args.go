// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fogsched/fogsched/pkg/plugins/internal"
	"github.com/fogsched/fogsched/pkg/store"
)

// Args are the plugin's arguments, the args of its pluginConfig.
type Args struct {
	metav1.TypeMeta `json:",inline"`

	// MaxAge is how long after a prober's next report is due its measurements are still used, 10s to 24h. Default 5m: with few
	// nodes a report is due each minute, so that four in a row can be missed.
	MaxAge metav1.Duration `json:"maxAge,omitempty"`

	// ZonesFile is the path of a table of round-trip times between zones, for pairs that nobody measured. Default none.
	ZonesFile string `json:"zonesFile,omitempty"`

	// Interest is the ConfigMap, NAMESPACE/NAME, in which probers are told which nodes host the targets of policies, so that all
	// of them measure these. It must exist. Default none: then probers measure what they choose themselves, which is all pairs up
	// to 33 nodes.
	Interest string `json:"interest,omitempty"`
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
	if args.Interest != "" {
		namespace, name, ok := strings.Cut(args.Interest, "/")
		if !ok || len(validation.IsDNS1123Label(namespace)) > 0 || len(validation.IsDNS1123Subdomain(name)) > 0 {
			errs = append(errs, field.Invalid(path.Child("interest"), args.Interest, "must be NAMESPACE/NAME of a ConfigMap, as in fogsched-system/fogprobe-interest"))
		}
	}
	return errs
}

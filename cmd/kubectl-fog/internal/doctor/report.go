// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
)

// Report is what `kubectl fog doctor -o json` prints. Fields are added to it, never renamed or taken away.
type Report struct {
	// CheckedAt is when the cluster was read, by this machine's clock.
	CheckedAt time.Time `json:"checkedAt"`
	// Server is the version of the API server, as in "v1.35.4"; empty where it does not say.
	Server string `json:"server,omitempty"`
	// SchedulerNamespace is where fogsched was looked for.
	SchedulerNamespace string  `json:"schedulerNamespace"`
	Summary            Summary `json:"summary"`
	// Checks are in the order in which people see them.
	Checks []Check `json:"checks"`
}

// Summary counts checks by status.
type Summary struct {
	Problems   int `json:"problems"`
	Warnings   int `json:"warnings"`
	OK         int `json:"ok"`
	NotChecked int `json:"notChecked"`
}

// Status is what came out of a check.
type Status string

// The statuses. The worst of its findings is that of a check.
const (
	StatusOK      Status = "ok"
	StatusWarning Status = "warning" // it works, and something will bite
	StatusProblem Status = "problem" // something does not work
	// StatusNotChecked is that of a check that could not look, and found nothing amiss in what it could.
	StatusNotChecked Status = "notChecked"
)

// Check is one thing that was looked at.
type Check struct {
	// ID is the check's name for --only and for scripts; it does not change.
	ID string `json:"id"`
	// Group is the part of the system that it is about: cluster, scheduler, pods, policies or probers.
	Group  string `json:"group"`
	Title  string `json:"title"`
	Status Status `json:"status"`
	// Message says in one line what was seen.
	Message  string    `json:"message"`
	Findings []Finding `json:"findings,omitempty"`
	// NotChecked says what could not be looked at and why; MissingPermissions are those that it would take.
	NotChecked         []string     `json:"notChecked,omitempty"`
	MissingPermissions []Permission `json:"missingPermissions,omitempty"`
	// HowTo says how to look at it all the same.
	HowTo *Mend `json:"howTo,omitempty"`
}

// Finding is one thing that is wrong.
type Finding struct {
	// Severity is warning or problem.
	Severity Status `json:"severity"`
	// Message says what is wrong.
	Message string `json:"message"`
	// Evidence are the names and numbers that show it.
	Evidence []string `json:"evidence,omitempty"`
	Mend     Mend     `json:"mend"`
}

// Mend says what to do: in words, by commands to copy, or both.
type Mend struct {
	Text     string   `json:"text,omitempty"`
	Commands []string `json:"commands,omitempty"`
}

// Permission is one that the user of kubectl lacks.
type Permission struct {
	Verb string `json:"verb"`
	// Resource is as `kubectl auth can-i` takes it, with its group.
	Resource string `json:"resource"`
	// Namespace is empty for all namespaces and for what is in none.
	Namespace string `json:"namespace,omitempty"`
}

// CanI is the command that asks for the permission.
func (p Permission) CanI() string {
	where := " -A"
	if p.Namespace != "" {
		where = " -n " + p.Namespace
	}
	return fmt.Sprintf("kubectl auth can-i %s %s%s", p.Verb, p.Resource, where)
}

// noPermission is the error of a request that was refused.
type noPermission struct{ Permission }

func (e *noPermission) Error() string {
	return fmt.Sprintf("no permission to %s %s", e.Verb, e.Resource)
}

// outcome gathers what a check finds.
type outcome struct{ Check }

func (o *outcome) problem(message string, evidence []string, mend Mend) {
	o.Findings = append(o.Findings, Finding{Severity: StatusProblem, Message: message, Evidence: evidence, Mend: mend})
}

func (o *outcome) warning(message string, evidence []string, mend Mend) {
	o.Findings = append(o.Findings, Finding{Severity: StatusWarning, Message: message, Evidence: evidence, Mend: mend})
}

// ok sets what is said where nothing is wrong.
func (o *outcome) ok(format string, a ...any) { o.Message = fmt.Sprintf(format, a...) }

// cannot notes that something could not be looked at.
func (o *outcome) cannot(err error) {
	var listed *cli.PermissionError
	var refused *noPermission
	switch {
	case errors.As(err, &listed):
		o.lacks(Permission{Verb: listed.Verb, Resource: listed.Resource})
	case errors.As(err, &refused):
		o.lacks(refused.Permission)
	case errors.Is(err, cli.ErrNoCRDs):
		o.cannotBecause("the CRDs of fogsched.dev are not installed")
	default:
		o.cannotBecause(err.Error())
	}
}

func (o *outcome) lacks(p Permission) {
	if !slices.Contains(o.MissingPermissions, p) {
		o.MissingPermissions = append(o.MissingPermissions, p)
		o.cannotBecause(fmt.Sprintf("no permission to %s %s", p.Verb, p.Resource))
	}
}

func (o *outcome) cannotBecause(why string) {
	if !slices.Contains(o.NotChecked, why) {
		o.NotChecked = append(o.NotChecked, why)
	}
}

// needs reports whether kinds were read, and notes those that were not.
func (o *outcome) needs(f *facts, kinds ...cli.Kind) bool {
	have := true
	for _, k := range kinds {
		if err := f.Missing[k]; err != nil {
			o.cannot(err)
			have = false
		}
	}
	return have
}

// close sets the status, and the message where there is something to say.
func (o *outcome) close() Check {
	problems, warnings := 0, 0
	for i := range o.Findings {
		if o.Findings[i].Severity == StatusProblem {
			problems++
		} else {
			warnings++
		}
	}
	slices.SortStableFunc(o.Findings, func(a, b Finding) int { return rank(a.Severity) - rank(b.Severity) })
	switch {
	case problems > 0:
		o.Status = StatusProblem
	case warnings > 0:
		o.Status = StatusWarning
	case len(o.NotChecked) > 0:
		o.Status, o.Message = StatusNotChecked, o.NotChecked[0]
		return o.Check
	default:
		o.Status = StatusOK
		return o.Check
	}
	o.Message = o.Findings[0].Message
	if n := len(o.Findings) - 1; n > 0 {
		o.Message += fmt.Sprintf(" (and %d more)", n)
	}
	return o.Check
}

func rank(s Status) int {
	return slices.Index([]Status{StatusProblem, StatusWarning, StatusNotChecked, StatusOK}, s)
}

func summarize(checks []Check) (s Summary) {
	for i := range checks {
		switch checks[i].Status {
		case StatusProblem:
			s.Problems++
		case StatusWarning:
			s.Warnings++
		case StatusOK:
			s.OK++
		case StatusNotChecked:
			s.NotChecked++
		}
	}
	return s
}

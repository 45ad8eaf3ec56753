// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/app"
)

// elsewhere are the programs that the test does not run, each with the reason. What they are given is looked at all the same: files must be there.
var elsewhere = map[string]string{
	"docker":    "needs an engine; test/image and test/kind run it",
	"minikube":  "a distribution of Kubernetes that the test has not",
	"microk8s":  "a distribution of Kubernetes that the test has not",
	"k3s":       "a distribution of Kubernetes that the test has not",
	"snap":      "changes the machine",
	"systemctl": "changes the machine",
	"mv":        "moves files of a control plane",
	"install":   "changes the machine",
	"chmod":     "of a file outside of the repository",
	"source":    "a word of the shell",
	"export":    "a word of the shell",
	"cd":        "a word of the shell",
	"cat":       "reads a file of another machine",
	"head":      "makes a random key",
	"diff":      "compares with a download",
	"git":       "fetches the repository",
	"curl":      "asks a port that is forwarded",
	"grep":      "filters what others print",
	"jq":        "filters what others print",
}

// Words of kubectl that change nothing; words that can be tried without effect; and, of the others, only the flags are looked at.
var (
	reading = []string{"get", "describe", "explain", "version", "api-resources", "api-versions", "auth", "kustomize", "cluster-info", "rollout status", "rollout history"}
	dry     = []string{
		"apply", "create", "label", "annotate", "delete", "patch", "scale", "run", "taint", "expose", "replace", "cordon", "uncordon", "set resources",
		"set image", "set env",
	}
)

// checker tries what stands in pages.
type checker struct {
	t          *testing.T
	root, bin  string
	kubeconfig string
	work       string // where the commands of a page run
	makefile   string
	helps      map[string]string

	ran, looked, left int
}

func newChecker(t *testing.T, bin, kubeconfig string) *checker {
	t.Helper()
	makefile, err := os.ReadFile(filepath.Join(root(t), "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	return &checker{t: t, root: root(t), bin: bin, kubeconfig: kubeconfig, makefile: string(makefile), helps: map[string]string{}}
}

// commands tries the commands of a page in their order, in a folder that has what the repository has, what testdata/work has, and the YAML of
// the page that begins with "# NAME.yaml".
func (x *checker) commands(p *page) (problems []string) {
	x.work = workFolder(x.t, x.root, p)
	x.t.Chdir(x.work)
	for _, b := range p.commands {
		if err := x.line(b.text, false); b.fails != (err != nil) {
			if b.fails {
				err = errors.New("it succeeds, and the page shows an error")
			}
			problems = append(problems, at(p, b, err.Error()))
		}
	}
	for _, b := range p.spans {
		if err := x.span(b.text); err != nil {
			problems = append(problems, at(p, b, err.Error()))
		}
	}
	return problems
}

func workFolder(t *testing.T, root string, p *page) string {
	t.Helper()
	dir := t.TempDir()
	for _, from := range []string{root, filepath.Join(root, "test", "docs", "testdata", "work")} {
		entries, err := os.ReadDir(from)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".") {
				continue
			}
			if err := os.Symlink(filepath.Join(from, e.Name()), filepath.Join(dir, e.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, b := range p.yaml {
		if m := fileName.FindStringSubmatch(b.text); m != nil {
			path := filepath.Join(dir, m[1])
			if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(b.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

var (
	fileName = regexp.MustCompile(`^# ([\w-]+\.yaml)\n`)
	pathSpan = regexp.MustCompile(`^(manifests|charts|docs|test|pkg|cmd|hack)/[\w./-]*$`)
)

// span looks at what stands between backquotes in the prose: a path of the repository must be there, a command must have the flags that it is
// given. It is not run: often only a part of it stands there.
func (x *checker) span(text string) error {
	if pathSpan.MatchString(text) {
		return x.path(text)
	}
	first, _, more := strings.Cut(strings.TrimPrefix(text, "sudo "), " ")
	if !more || !slices.Contains([]string{"kubectl", "kubectl-fog", "helm", "make", "kind", "go"}, first) || strings.Contains(text, "…") {
		return nil
	}
	return x.line(text, true)
}

// line tries a command line. With mention nothing is run.
func (x *checker) line(text string, mention bool) error {
	pipelines, err := split(text)
	if err != nil {
		return err
	}
	for _, p := range pipelines {
		var out []byte
		for i := range p {
			c := &p[i]
			if err := placeholders(c.args); err != nil && !mention {
				return err
			}
			var in []byte
			if c.piped {
				if in = out; in == nil {
					in = bytes.Repeat([]byte("x"), 32) // of a program that was not run
				}
			}
			if out, err = x.command(c, in, mention); err != nil {
				return err
			}
			if c.stdout != "" && out != nil && filepath.IsLocal(c.stdout) && !strings.HasPrefix(c.stdout, "~") {
				_ = os.Remove(filepath.Join(x.work, c.stdout)) // it may be a link into the repository
				if err := os.WriteFile(filepath.Join(x.work, c.stdout), out, 0o600); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (x *checker) command(c *command, in []byte, mention bool) (out []byte, err error) {
	args := c.args
	for args[0] == "sudo" || args[0] == "exec" {
		args = args[1:]
	}
	for _, a := range args[1:] {
		if err := x.path(a); err != nil {
			return nil, err
		}
	}
	program, args := args[0], args[1:]
	switch {
	case program == "kubectl" && len(args) > 0 && args[0] == "fog":
		return x.fog(args[1:], in, mention)
	case program == "kubectl-fog":
		return x.fog(args, in, mention)
	case program == "kubectl":
		return x.kubectl(args, in, mention)
	case program == "helm":
		return x.helm(args, mention)
	case program == "kind":
		x.looked++
		return nil, x.flags("kind", args[:min(2, len(args))], args)
	case program == "make":
		x.looked++
		return nil, x.make(args)
	case program == "go":
		x.looked++
		return nil, x.goTest(args)
	case elsewhere[program] != "":
		x.left++
		return nil, nil
	}
	return nil, fmt.Errorf("%s is a program that the test does not know", program)
}

// path follows what looks like a path of the repository.
func (x *checker) path(arg string) error {
	arg = strings.TrimPrefix(arg, "./")
	first, _, ok := strings.Cut(arg, "/")
	if !ok || strings.Contains(arg, "://") || !slices.Contains([]string{"manifests", "charts", "docs", "test", "pkg", "cmd", "hack"}, first) {
		return nil
	}
	path := strings.TrimSuffix(strings.TrimSuffix(arg, "..."), "/")
	if _, err := os.Stat(filepath.Join(x.root, path)); err != nil {
		return fmt.Errorf("there is no %s", path)
	}
	return nil
}

var placeholder = regexp.MustCompile(`\b(NAMESPACE|NAME|NODE|FILE|USER|COMMAND)\b`)

// placeholders puts names of the prepared cluster in their places.
func placeholders(args []string) error {
	for i, a := range args {
		args[i] = placeholder.ReplaceAllStringFunc(a, func(word string) string {
			switch word {
			case "NAMESPACE":
				return "default"
			case "NODE":
				return "edge-1"
			case "FILE":
				return "deployment.yaml"
			case "USER":
				return "jane"
			case "COMMAND":
				return "doctor"
			}
			for k := i - 1; k >= 0; k-- {
				if name := nameOf[strings.TrimSuffix(args[k], "s")]; name != "" {
					return name
				}
			}
			return word
		})
		if regexp.MustCompile(`^[A-Z]{4,}$`).MatchString(args[i]) {
			return fmt.Errorf("%s is a placeholder that the test does not know", args[i])
		}
	}
	return nil
}

var nameOf = map[string]string{"node": "edge-1", "pod": "bulletin-board-7c9f8-x2x4z", "deployment": "web", "latencypolicy": "bulletin-board", "nodelatency": "edge-1", "log": "bulletin-board-7c9f8-x2x4z"}

// kubectl runs what reads, tries what can be tried without effect, and looks at the flags of the rest.
func (x *checker) kubectl(args []string, in []byte, mention bool) ([]byte, error) {
	words := wordsOf(args)
	if len(words) == 0 || strings.HasPrefix(args[0], "--") {
		return nil, nil
	}
	verb := words[:1]
	if slices.Contains([]string{"rollout", "set", "auth", "create", "config", "top", "certificate"}, words[0]) && len(words) > 1 {
		verb = words[:2]
		if words[0] == "create" && words[1] == "secret" && len(words) > 2 {
			verb = words[:3]
		}
	}
	if _, err := exec.LookPath(filepath.Join(x.bin, "kubectl")); err != nil {
		return nil, err
	}
	if verb[0] == "krew" || verb[0] == "completion" {
		x.left++
		return nil, nil
	}
	if err := x.flags("kubectl", verb, args); err != nil {
		return nil, err
	}
	name := strings.Join(verb, " ")
	args = slices.Clone(args)
	switch {
	case mention, name == "create token":
		x.looked++
		return nil, nil
	case slices.Contains(reading, name), slices.Contains(reading, verb[0]):
		if name == "rollout status" {
			args = append(args, "--timeout=2m")
		}
	case slices.Contains(dry, name), slices.Contains(dry, verb[0]):
		args = append(args, "--dry-run=server")
		if slices.Contains(args, "--server-side") && !slices.Contains(args, "--force-conflicts") {
			args = append(args, "--force-conflicts") // with those who prepared the cluster
		}
	default:
		x.looked++
		return nil, nil
	}
	x.ran++
	out, err := x.run("kubectl", in, args...)
	if exit := (*exec.ExitError)(nil); name == "auth can-i" && errors.As(err, &exit) && exit.ExitCode() == 1 {
		return []byte("no\n"), nil // which is an answer, too
	}
	return out, err
}

// wordsOf are the arguments that are no flags and no values of kubectl's flags.
func wordsOf(args []string) (words []string) {
	valued := []string{"-n", "--namespace", "-l", "--selector", "-o", "--output", "-f", "--filename", "-k", "--kustomize", "-p", "--patch", "--context", "--kubeconfig", "-c", "--field-selector"}
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "--":
			return words
		case slices.Contains(valued, args[i]):
			i++
		case !strings.HasPrefix(args[i], "-"):
			words = append(words, args[i])
		}
	}
	return words
}

func (x *checker) run(program string, in []byte, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(x.t.Context(), filepath.Join(x.bin, program), args...)
	cmd.Dir = x.work
	home := x.t.TempDir()
	cmd.Env = append(os.Environ(), "KUBECONFIG="+x.kubeconfig, "HOME="+home, "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	cmd.Stdin = bytes.NewReader(in)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", program, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	if out.Len() == 0 {
		return []byte{}, nil
	}
	return out.Bytes(), nil
}

var helpFlag = regexp.MustCompile(`(?m)^\s+(?:(-\w), )?(--[\w-]+)`)

// flags compares the flags of a command with those in its help.
func (x *checker) flags(program string, words, args []string) error {
	key := program + " " + strings.Join(words, " ")
	if _, ok := x.helps[key]; !ok {
		out, err := x.run(program, nil, append(slices.Clone(words), "--help")...)
		if err != nil {
			return err
		}
		text := string(out)
		if program == "kubectl" {
			global, err := x.run(program, nil, "options")
			if err != nil {
				return err
			}
			text += string(global)
		}
		x.helps[key] = text
	}
	help := x.helps[key]
	_, usage, _ := strings.Cut(help, "Usage:")
	if !strings.Contains(usage, key) { // the help of the words before is what an unknown one gets
		return fmt.Errorf("there is no command %s", key)
	}
	known := map[string]bool{}
	for _, m := range helpFlag.FindAllStringSubmatch(help, -1) {
		known[m[1]], known[m[2]] = true, true
	}
	for _, a := range args {
		if a == "--" {
			break
		}
		name, _, _ := strings.Cut(a, "=")
		if len(name) > 1 && name[0] == '-' && !known[name] {
			return fmt.Errorf("%s has no flag %s", key, name)
		}
	}
	return nil
}

// helm renders what it would install.
func (x *checker) helm(args []string, mention bool) ([]byte, error) {
	if err := x.flags("helm", args[:1], args); err != nil {
		return nil, err
	}
	args = slices.Clone(args)
	switch {
	case mention:
		x.looked++
		return nil, nil
	case args[0] == "template", args[0] == "lint", args[0] == "list":
	case args[0] == "install", args[0] == "upgrade" && slices.Contains(args, "--install"):
		args = append(args, "--dry-run=client")
	default:
		x.looked++
		return nil, nil
	}
	x.ran++
	return x.run("helm", nil, args...)
}

// make looks for targets and variables in the Makefile.
func (x *checker) make(args []string) error {
	for _, a := range args {
		if strings.HasPrefix(a, "-") || regexp.MustCompile(`^[a-z]+/`).MatchString(a) { // a file that it builds
			if !strings.HasPrefix(a, "-") && !strings.Contains(x.makefile, a) {
				return fmt.Errorf("the Makefile does not build %s", a)
			}
			continue
		}
		if name, _, ok := strings.Cut(a, "="); ok {
			if !regexp.MustCompile(`\b` + regexp.QuoteMeta(name) + `\b`).MatchString(x.makefile) {
				return fmt.Errorf("the Makefile has no variable %s", name)
			}
			continue
		}
		if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(a) + `:`).MatchString(x.makefile) {
			return fmt.Errorf("the Makefile has no target %s", a)
		}
	}
	return nil
}

// goTest looks for the tests and benchmarks that -run and -bench name.
func (x *checker) goTest(args []string) error {
	var dir, pattern string
	for i, a := range args {
		switch {
		case strings.HasPrefix(a, "./"):
			dir = strings.TrimSuffix(strings.TrimSuffix(a, "..."), "/")
		case (a == "-run" || a == "-bench") && i+1 < len(args) && args[i+1] != "^$":
			pattern, _, _ = strings.Cut(args[i+1], "/")
		}
	}
	if dir == "" || pattern == "" {
		return nil
	}
	re, err := regexp.Compile(pattern)
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(x.root, dir, "*_test.go"))
	if err != nil {
		return err
	}
	for _, f := range files {
		content, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Benchmark)\w+)\(`).FindAllStringSubmatch(string(content), -1) {
			if re.MatchString(m[1]) {
				return nil
			}
		}
	}
	return fmt.Errorf("%s has no test or benchmark %s", dir, pattern)
}

// fog runs a command of kubectl-fog in this process, unless it would go on for ever.
func (x *checker) fog(args []string, in []byte, mention bool) ([]byte, error) {
	cmd, rest, err := app.Tree().Find(args)
	if err != nil {
		return nil, err
	}
	if !cmd.Runnable() && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
		return nil, fmt.Errorf("there is no command %s %s", cmd.CommandPath(), rest[0])
	}
	if err := cmd.ParseFlags(rest); err != nil && !errors.Is(err, pflag.ErrHelp) {
		return nil, err
	}
	forever := cmd.Name() == "top" && !cmd.Flags().Changed("once") || cmd.Flags().Changed("watch")
	if mention || forever {
		x.looked++
		return nil, nil
	}
	x.ran++
	var out, errs bytes.Buffer
	code := app.Main("test", append(slices.Clone(args), "--kubeconfig="+x.kubeconfig, "--cache-dir="+x.t.TempDir()), bytes.NewReader(in), &out, &errs)
	if code != 0 && (cmd.Name() != "doctor" || strings.HasPrefix(errs.String(), "error:")) { // doctor may find what is wrong with the test's cluster
		return nil, fmt.Errorf("exit code %d\n%s%s", code, out.String(), errs.String())
	}
	return out.Bytes(), nil
}

// TestCommands tries every command of the documents.
func TestCommands(t *testing.T) {
	x := newChecker(t, binDir(t), control.KubeconfigPath())
	for _, p := range readPages(t, "README.md", "docs/*.md", "docs/reference/*.md") {
		for _, problem := range x.commands(p) {
			t.Error(problem)
		}
	}
	t.Logf("%d commands were run, %d looked at, %d are for elsewhere", x.ran, x.looked, x.left)
	if x.ran < 80 || x.looked < 80 {
		t.Error("so few: the test looks in the wrong place")
	}
	for program, reason := range elsewhere {
		if reason == "" {
			t.Errorf("%s is not run without a reason", program)
		}
	}
}

// TestWrongCommandsAreFound: what the test must not let pass.
func TestWrongCommandsAreFound(t *testing.T) {
	x := newChecker(t, binDir(t), control.KubeconfigPath())
	for text, want := range map[string]string{
		"    kubectl get pods --all-namspaces":                    "no flag --all-namspaces",
		"    kubectl get latencypolicys.fogsched.dev":             "doesn't have a resource type",
		"    kubectl gett pods":                                   "unknown command",
		"    kubectl rollout statsu deployment/fogsched":          "no command kubectl rollout statsu",
		"    kubectl apply -k manifests/overlays/minikub":         "there is no manifests/overlays/minikub",
		"    kubectl apply -f missing.yaml":                       "missing.yaml",
		"    kubectl get pod nobody":                              "not found",
		"    kubectl fog explain pods bulletin-board --candidate": "unknown flag: --candidate",
		"    kubectl fog exlain":                                  "unknown command",
		"    kubectl fog policy chek -f deploy/":                  "no command kubectl fog policy chek",
		"    kubectl fog explain -f missing.yaml":                 "missing.yaml",
		"    kubectl fog doctor --only=prober":                    "prober",
		"    helm template fogsched charts/fogshed":               "there is no charts/fogshed",
		"    helm template fogsched charts/fogsched --set a=1":    "additional properties",
		"    helm upgrade fogsched charts/fogsched --reuse":       "no flag --reuse",
		"    make demoo":                                          "no target demoo",
		"    make demo SOURC=prometheus":                          "no variable SOURC",
		"    kind create clusters":                                "no command kind create clusters",
		"    go test ./test/quality -run TestQualityNarow":        "no test or benchmark TestQualityNarow",
		"    kubectl describe pod THING":                          "a placeholder",
		"    rm -rf /":                                            "does not know",
		"See `manifests/base/confg.yaml`.":                        "there is no manifests/base/confg.yaml",
		"Or `kubectl -n a get pods --wach`.":                      "no flag --wach",
		"    $ helm lint charts/fogsched\n    Error: no chart":    "the page shows an error",
	} {
		problems := x.commands(parsePage("page.md", text+"\n"))
		if len(problems) != 1 || !strings.Contains(problems[0], want) {
			t.Errorf("%s: got %q, want one problem with %q", text, problems, want)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// command is one program with its arguments.
type command struct {
	args []string
	// stdin is the file that it reads; piped is set where it reads another command's output.
	stdin  string
	stdout string // the file that it writes
	piped  bool
}

// pipeline is commands of which each reads what the one before wrote.
type pipeline []command

// reserved are the words of the shell that are no programs.
var reserved = []string{"do", "then", "else", "done", "fi"}

// split takes a command line apart as a shell would. What stands in $(…) and <(…) comes first, since it runs first.
func split(line string) ([]pipeline, error) {
	var all, nested []pipeline
	var now pipeline
	var c command
	var word strings.Builder
	inWord, toFile, fromFile, errors := false, false, false, false
	end := func() {
		if !inWord {
			return
		}
		w := word.String()
		word.Reset()
		inWord = false
		switch {
		case toFile:
			toFile = false
			if !errors {
				c.stdout = w
			}
		case fromFile:
			fromFile = false
			c.stdin = w
		case len(c.args) == 0 && slices.Contains(reserved, w):
		case len(c.args) == 0 && isAssignment(w):
		default:
			c.args = append(c.args, w)
		}
	}
	endCommand := func(pipe bool) {
		end()
		if len(c.args) > 0 && c.args[0] != "for" {
			now = append(now, c)
		}
		c = command{piped: pipe}
		if !pipe {
			if len(now) > 0 {
				all = append(all, now)
			}
			now = nil
		}
	}
	substitute := func(rest string) (length int, err error) {
		depth := 0
		for i, r := range rest {
			switch r {
			case '(':
				depth++
			case ')':
				if depth--; depth == 0 {
					inner, err := split(rest[1:i])
					nested = append(nested, inner...)
					word.WriteString("substituted")
					inWord = true
					return i + 1, err
				}
			}
		}
		return 0, fmt.Errorf("a parenthesis is not closed")
	}
	for i := 0; i < len(line); i++ {
		switch r := line[i]; {
		case r == '\'':
			n := strings.IndexByte(line[i+1:], '\'')
			if n < 0 {
				return nil, fmt.Errorf("a quote is not closed")
			}
			word.WriteString(line[i+1 : i+1+n])
			inWord = true
			i += n + 1
		case r == '"':
			inWord = true
			closed := false
			for i++; i < len(line); i++ {
				if line[i] == '"' {
					closed = true
					break
				}
				if line[i] == '\\' && i+1 < len(line) && strings.IndexByte(`"\$`, line[i+1]) >= 0 {
					i++
				} else if strings.HasPrefix(line[i:], "$(") {
					n, err := substitute(line[i+1:])
					if err != nil {
						return nil, err
					}
					i += n
					continue
				}
				word.WriteByte(line[i])
			}
			if !closed {
				return nil, fmt.Errorf("a quote is not closed")
			}
		case r == '\\' && i+1 < len(line):
			i++
			word.WriteByte(line[i])
			inWord = true
		case strings.HasPrefix(line[i:], "$("), strings.HasPrefix(line[i:], "<("):
			n, err := substitute(line[i+1:])
			if err != nil {
				return nil, err
			}
			i += n
		case r == ' ' || r == '\t':
			end()
		case r == '#' && !inWord:
			i = len(line)
		case strings.HasPrefix(line[i:], "&&"), strings.HasPrefix(line[i:], "||"):
			endCommand(false)
			i++
		case r == '|':
			endCommand(true)
		case r == ';' || r == '&':
			endCommand(false)
		case r == '>':
			errors = inWord && word.String() == "2"
			if errors {
				word.Reset()
				inWord = false
			}
			end()
			toFile = true
			if strings.HasPrefix(line[i:], ">>") {
				i++
			}
		case r == '<':
			end()
			fromFile = true
		default:
			word.WriteByte(r)
			inWord = true
		}
	}
	endCommand(false)
	return append(nested, all...), nil
}

func isAssignment(w string) bool {
	name, _, ok := strings.Cut(w, "=")
	return ok && name != "" && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789") == ""
}

func TestSplit(t *testing.T) {
	for line, want := range map[string][]pipeline{
		"kubectl get pods # all":                   {{{args: []string{"kubectl", "get", "pods"}}}},
		"A=1 make demo && echo 'it works'":         {{{args: []string{"make", "demo"}}}, {{args: []string{"echo", "it works"}}}},
		"docker save a > a.tar; k3s load < a.tar":  {{{args: []string{"docker", "save", "a"}, stdout: "a.tar"}}, {{args: []string{"k3s", "load"}, stdin: "a.tar"}}},
		"a 2>/dev/null | b -":                      {{{args: []string{"a"}}, {args: []string{"b", "-"}, piped: true}}},
		`curl -H "Bearer $(kubectl create token)"`: {{{args: []string{"kubectl", "create", "token"}}}, {{args: []string{"curl", "-H", "Bearer substituted"}}}},
		"source <(kubectl fog completion bash)":    {{{args: []string{"kubectl", "fog", "completion", "bash"}}}, {{args: []string{"source", "substituted"}}}},
		"for p in a b; do":                         nil,
	} {
		got, err := split(line)
		if err != nil {
			t.Errorf("%s: %v", line, err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(command{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", line, diff)
		}
	}
	for _, line := range []string{"echo 'a", `echo "a`, "echo $(a"} {
		if _, err := split(line); err == nil {
			t.Errorf("%s: no error", line)
		}
	}
}

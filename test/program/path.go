// SPDX-License-Identifier: Apache-2.0

package program

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// BinDir is where the programs are: $FOGSCHED_BIN, else bin/ at the root of the repository.
func BinDir() (string, error) {
	if dir := os.Getenv("FOGSCHED_BIN"); dir != "" {
		return filepath.Abs(dir)
	}
	root, err := RepoRoot()
	if err != nil {
		return "", err
	}
	return filepath.Join(root, "bin"), nil
}

// RepoRoot is the folder of this module's go.mod, looked for from the working directory upwards.
func RepoRoot() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the repository: %w", err)
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.Contains(string(b), "module github.com/fogsched/fogsched\n") {
			return dir, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("finding the repository: %w", err)
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s is not inside the fogsched repository; set FOGSCHED_BIN to the folder with the programs", start)
		}
	}
}

// Path returns the path of a program in the folder dir, or an error that names the make target that builds it. A name with a
// separator in it is a path already.
func Path(dir, name, target string) (string, error) {
	path := name
	if !strings.ContainsRune(name, filepath.Separator) {
		path = filepath.Join(dir, name)
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%s is missing: run `%s`", path, target)
	}
	return path, nil
}

// SPDX-License-Identifier: Apache-2.0

// Package docs holds the documents to what they say: every command and every piece of YAML in README.md and docs/ is tried on a real API server,
// with the real programs, or as far as it can be where it needs another machine; every link and every path is followed; the worked example of
// docs/placement.md is computed by the scheduler's own code.
package docs

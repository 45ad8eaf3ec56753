// SPDX-License-Identifier: Apache-2.0

package top

import "os"

// notifyResize does nothing: Windows has no such signal, and the next picture has the new size anyway.
func notifyResize(chan<- os.Signal) {}

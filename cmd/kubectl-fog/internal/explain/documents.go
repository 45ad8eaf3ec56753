// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
)

// documents are what a file asks about: pods that are not there yet, and what concerns them.
type documents struct {
	workloads []workload
	services  []*v1.Service
	policies  []*v1alpha1.LatencyPolicy
	skipped   []string
}

// workload is what makes pods.
type workload struct {
	name     string // "Deployment default/board"
	replicas int
	pod      *v1.Pod // the first of them
}

// maxFile bounds what is read of a file.
const maxFile = 8 << 20

var decoder = func() runtime.Decoder {
	s := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(s); err != nil {
		panic(err)
	}
	if err := v1alpha1.AddToScheme(s); err != nil {
		panic(err)
	}
	return serializer.NewCodecFactory(s, serializer.EnableStrict).UniversalDeserializer()
}()

// readDocuments reads the documents of a file, "-" for standard input.
func readDocuments(path string, stdin io.Reader, namespace string) (*documents, error) {
	in := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	} else {
		path = "standard input"
	}
	d := &documents{}
	text, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s is longer than %d MiB", path, maxFile>>20)
	}
	docs := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for i := 1; ; i++ {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%s: document %d: %w", path, i, err)
		}
		if len(bytes.TrimSpace(stripComments(doc))) == 0 {
			continue
		}
		obj, gvk, err := decoder.Decode(doc, nil, nil)
		if runtime.IsNotRegisteredError(err) && gvk != nil {
			d.skipped = append(d.skipped, gvk.Kind)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: document %d: %w", path, i, err)
		}
		d.add(obj, namespace)
	}
	if len(d.workloads) == 0 {
		return nil, fmt.Errorf("%s has no Deployment, StatefulSet, ReplicaSet, Job, CronJob or Pod: nothing that would be placed", path)
	}
	return d, nil
}

func stripComments(doc []byte) []byte {
	var out []byte
	for line := range bytes.Lines(doc) {
		if t := bytes.TrimSpace(line); !bytes.HasPrefix(t, []byte("#")) && !bytes.Equal(t, []byte("---")) {
			out = append(out, line...)
		}
	}
	return out
}

func (d *documents) add(obj runtime.Object, namespace string) {
	if m, ok := obj.(metav1.Object); ok && m.GetNamespace() == "" {
		m.SetNamespace(namespace)
	}
	one := int32(1)
	or1 := func(n *int32) int {
		if n == nil {
			n = &one
		}
		return int(*n)
	}
	switch o := obj.(type) {
	case *v1.Pod:
		o.UID = types.UID("explain/" + o.Namespace + "/" + o.Name)
		d.workloads = append(d.workloads, workload{"Pod " + o.Namespace + "/" + o.Name, 1, o})
	case *appsv1.Deployment:
		// Its pods belong to a ReplicaSet, by whose name the scheduler tells a rollout's old pods from its new ones.
		const hash = "explain"
		pod := fromTemplate(&o.Spec.Template, o, "ReplicaSet", o.Name+"-"+hash)
		if pod.Labels == nil {
			pod.Labels = map[string]string{}
		}
		pod.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
		d.workloads = append(d.workloads, workload{"Deployment " + o.Namespace + "/" + o.Name, or1(o.Spec.Replicas), pod})
	case *appsv1.StatefulSet:
		d.workloads = append(d.workloads, workload{"StatefulSet " + o.Namespace + "/" + o.Name, or1(o.Spec.Replicas), fromTemplate(&o.Spec.Template, o, "StatefulSet", o.Name)})
	case *appsv1.ReplicaSet:
		d.workloads = append(d.workloads, workload{"ReplicaSet " + o.Namespace + "/" + o.Name, or1(o.Spec.Replicas), fromTemplate(&o.Spec.Template, o, "ReplicaSet", o.Name)})
	case *batchv1.Job:
		d.workloads = append(d.workloads, workload{"Job " + o.Namespace + "/" + o.Name, or1(o.Spec.Parallelism), fromTemplate(&o.Spec.Template, o, "Job", o.Name)})
	case *batchv1.CronJob:
		d.workloads = append(d.workloads, workload{
			"CronJob " + o.Namespace + "/" + o.Name, or1(o.Spec.JobTemplate.Spec.Parallelism), fromTemplate(&o.Spec.JobTemplate.Spec.Template, o, "Job", o.Name),
		})
	case *v1.Service:
		d.services = append(d.services, o)
	case *v1alpha1.LatencyPolicy:
		d.policies = append(d.policies, o)
	default:
		d.skipped = append(d.skipped, obj.GetObjectKind().GroupVersionKind().Kind)
	}
}

// fromTemplate returns the first pod that a controller would make of a template.
func fromTemplate(t *v1.PodTemplateSpec, of metav1.Object, kind, name string) *v1.Pod {
	pod := &v1.Pod{ObjectMeta: *t.ObjectMeta.DeepCopy(), Spec: *t.Spec.DeepCopy()}
	controller := true
	pod.Namespace, pod.Name = of.GetNamespace(), name+"-1"
	pod.UID = types.UID("explain/" + pod.Namespace + "/" + pod.Name)
	pod.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: name, UID: types.UID("explain/" + kind + "/" + name), Controller: &controller}}
	return pod
}

// replica returns the n-th pod of a workload, from 1.
func (w *workload) replica(n int) *v1.Pod {
	if n == 1 {
		return w.pod
	}
	pod := w.pod.DeepCopy()
	pod.Name = fmt.Sprintf("%s-%d", w.pod.Name, n)
	pod.UID = types.UID(fmt.Sprintf("%s/%d", w.pod.UID, n))
	return pod
}

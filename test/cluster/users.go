// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"path/filepath"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// KubeconfigFor returns a kubeconfig of a user in some groups, who may do what RBAC says and nothing else.
func (c *Cluster) KubeconfigFor(user string, groups ...string) (string, error) {
	path, _, err := c.newUser(c.unusedName("user"), user, groups)
	return path, err
}

// ServiceAccountKubeconfig returns a kubeconfig with a token of a service account that exists.
func (c *Cluster) ServiceAccountKubeconfig(ctx context.Context, namespace, name string) (string, error) {
	day := int64(24 * 60 * 60)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &day}}
	token, err := c.client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name, request, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("asking for a token of service account %s/%s: %w", namespace, name, err)
	}
	path, _, err := c.writeKubeconfig(c.unusedName("sa"), &clientcmdapi.AuthInfo{Token: token.Status.Token})
	return path, err
}

// newUser writes the kubeconfig of a new client certificate, and returns the same as a configuration.
func (c *Cluster) newUser(file, user string, groups []string) (string, *rest.Config, error) {
	cert, key, err := c.pki.clientCertificate(user, groups)
	if err != nil {
		return "", nil, err
	}
	return c.writeKubeconfig(file, &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key})
}

func (c *Cluster) writeKubeconfig(file string, auth *clientcmdapi.AuthInfo) (string, *rest.Config, error) {
	const name = "fogsched"
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters[name] = &clientcmdapi.Cluster{Server: c.url, CertificateAuthorityData: c.pki.caPEM}
	cfg.AuthInfos[name] = auth
	cfg.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	cfg.CurrentContext = name

	path := filepath.Join(c.dir, file+".kubeconfig")
	if err := clientcmd.WriteToFile(*cfg, path); err != nil {
		return "", nil, fmt.Errorf("writing a kubeconfig: %w", err)
	}
	config, err := clientcmd.NewDefaultClientConfig(*cfg, nil).ClientConfig()
	if err != nil {
		return "", nil, fmt.Errorf("reading the kubeconfig that was just written: %w", err)
	}
	config.QPS = -1
	return path, config, nil
}

// unusedName returns the prefix with a number that no file of this cluster has.
func (c *Cluster) unusedName(prefix string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := prefix
	for i := 2; c.names[name]; i++ {
		name = fmt.Sprintf("%s-%d", prefix, i)
	}
	c.names[name] = true
	return name
}

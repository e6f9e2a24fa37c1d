//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// pauseTag is the image that holds a pod together: one of ours, since nothing is fetched from elsewhere.
const pauseTag = "team/pause:1"

// criSettings are those of Kubernetes' plugin, as of version 2: pods of the host's network need no CNI, and what this test runs in may not
// lower anybody's OOM score.
func (c *containerd) criSettings() string {
	return fmt.Sprintf(`
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs" # which install changes
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = %q
`, upstreamName+"/"+pauseTag, c.hosts)
}

// kubelet speaks to a containerd as Kubernetes' kubelet does.
type kubelet struct {
	images  cri.ImageServiceClient
	runtime cri.RuntimeServiceClient
	logs    string
	pods    int
}

// newKubelet connects to a containerd that has its CRI plugin. The end of the test removes all pods.
func newKubelet(t *testing.T, c *containerd) *kubelet {
	t.Helper()
	connection, err := grpc.NewClient("unix://"+c.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	k := &kubelet{images: cri.NewImageServiceClient(connection), runtime: cri.NewRuntimeServiceClient(connection), logs: c.dir}
	t.Cleanup(func() { k.removeAll(t); connection.Close() })
	eventually(t, "CRI is ready", func() error {
		status, err := k.runtime.Status(t.Context(), &cri.StatusRequest{})
		if err != nil {
			return err
		}
		for _, condition := range status.Status.Conditions {
			if condition.Type == cri.RuntimeReady && !condition.Status {
				return fmt.Errorf("%s: %s", condition.Reason, condition.Message)
			}
		}
		return nil
	})
	return k
}

// pull pulls an image.
func (k *kubelet) pull(t *testing.T, reference string) {
	t.Helper()
	if _, err := k.images.PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: reference}}); err != nil {
		t.Fatalf("CRI's PullImage of %s: %v", reference, err)
	}
}

// remove removes an image.
func (k *kubelet) remove(t *testing.T, reference string) {
	t.Helper()
	if _, err := k.images.RemoveImage(t.Context(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: reference}}); err != nil {
		t.Fatalf("CRI's RemoveImage of %s: %v", reference, err)
	}
}

// runs starts a pod with a container of a pulled image, and gives what a command prints in it.
func (k *kubelet) runs(t *testing.T, reference string, command ...string) string {
	t.Helper()
	ctx := t.Context()
	k.pods++
	pod := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: fmt.Sprintf("pod-%d", k.pods), Uid: fmt.Sprint(k.pods), Namespace: "default"},
		LogDirectory: k.logs,
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE},
		}},
	}
	sandbox, err := k.runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: pod})
	if err != nil {
		t.Fatalf("CRI's RunPodSandbox: %v", err)
	}
	made, err := k.runtime.CreateContainer(ctx, &cri.CreateContainerRequest{
		PodSandboxId: sandbox.PodSandboxId, SandboxConfig: pod,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "main"}, Image: &cri.ImageSpec{Image: reference}, LogPath: "main.log",
			Command: []string{"/bin/busybox", "sleep", "1000"},
			Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
				NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE},
			}},
		},
	})
	if err != nil {
		t.Fatalf("CRI's CreateContainer of %s: %v", reference, err)
	}
	if _, err := k.runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		t.Fatalf("CRI's StartContainer of %s: %v", reference, err)
	}
	result, err := k.runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: made.ContainerId, Cmd: command, Timeout: int64(patience.Seconds())})
	if err != nil || result.ExitCode != 0 {
		t.Fatalf("CRI's ExecSync of %s: %v, %s", strings.Join(command, " "), err, result.GetStderr())
	}
	return string(result.Stdout)
}

// removeAll removes all pods, with what runs in them.
func (k *kubelet) removeAll(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	list, err := k.runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		t.Errorf("CRI's ListPodSandbox: %v", err)
		return
	}
	for _, pod := range list.Items {
		if _, err := k.runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod.Id}); err != nil {
			t.Errorf("CRI's StopPodSandbox: %v", err)
		}
		if _, err := k.runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod.Id}); err != nil {
			t.Errorf("CRI's RemovePodSandbox: %v", err)
		}
	}
}

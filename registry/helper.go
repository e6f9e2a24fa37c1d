package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// helperWait is how long a helper may run on after it was told to stop.
const helperWait = time.Second

var helperName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// credentialHelper runs docker-credential-NAME, by the protocol that
// docker speaks with it: the server's name on its input, JSON on its output.
type credentialHelper struct {
	program string
	server  string
}

func newHelper(name, server string) (*credentialHelper, error) {
	if !helperName.MatchString(name) {
		return nil, fmt.Errorf("credential_helper %q is not the name of a helper: write ecr-login for docker-credential-ecr-login", name)
	}
	program := "docker-credential-" + name
	if _, err := exec.LookPath(program); err != nil {
		return nil, fmt.Errorf("credential_helper: %w", err)
	}
	if server == dockerHubKey {
		server = authn.DefaultAuthKey
	}
	return &credentialHelper{program: program, server: server}, nil
}

// get asks the helper. That it knows no credential is not an error.
func (h *credentialHelper) get(ctx context.Context) (authn.AuthConfig, error) {
	var out, complaints bounded
	cmd := exec.CommandContext(ctx, h.program, "get")
	cmd.Stdin = strings.NewReader(h.server)
	cmd.Stdout, cmd.Stderr = &out, &complaints
	cmd.WaitDelay = helperWait
	// What it started is ended with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// One that leaves an agent behind, which holds its output open, has answered all the same.
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		if ctx.Err() != nil {
			return authn.AuthConfig{}, &Error{Code: CodeTimeout, Message: h.program + " does not answer", Err: ctx.Err()}
		}
		return h.failed(err, out.kept.String(), complaints.kept.String())
	}
	var got struct{ Username, Secret string }
	if err := json.Unmarshal(out.kept.Bytes(), &got); err != nil || got.Secret == "" {
		return authn.AuthConfig{}, &Error{Code: CodeUnauthorized, Message: h.program + " printed no credential"}
	}
	if got.Username == "<token>" { // docker's way to say that the secret is an identity token
		return authn.AuthConfig{IdentityToken: got.Secret}, nil
	}
	return authn.AuthConfig{Username: got.Username, Password: got.Secret}, nil
}

func (h *credentialHelper) failed(err error, out, complaints string) (authn.AuthConfig, error) {
	// Helpers print their errors on standard output.
	if strings.Contains(out, "credentials not found") {
		return authn.AuthConfig{}, nil
	}
	said := out
	if strings.Contains(out, "{") { // it may be a credential
		said = ""
	}
	if strings.TrimSpace(said) == "" {
		said = complaints
	}
	if said = plain(said); said != "" {
		err = fmt.Errorf("%w: %s", err, said)
	}
	return authn.AuthConfig{}, &Error{Code: CodeUnauthorized, Message: h.program + " failed", Err: err}
}

// bounded keeps what a program prints, and fails it when that is no end of text.
// The buffer is not embedded, for its ReadFrom would read past the bound.
type bounded struct{ kept bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.kept.Len()+len(p) > maxSecret {
		return 0, errors.New("too much output")
	}
	return b.kept.Write(p)
}

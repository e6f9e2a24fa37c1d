package main

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	image "github.com/opencontainers/image-spec/specs-go/v1"
	runtime "github.com/opencontainers/runtime-spec/specs-go"
)

// runtimeSpec makes what a runtime is told from an image's config (OCI image spec, "Conversion to OCI Runtime Configuration"). rootfs is
// where the image is mounted, for its users.
func runtimeSpec(config image.Image, rootfs string, args []string) (*runtime.Spec, error) {
	command := config.Config.Cmd
	if len(args) > 0 {
		command = args
	}
	command = append(slices.Clone(config.Config.Entrypoint), command...)
	if len(command) == 0 {
		return nil, &hintedError{errors.New("the image names no command"), "name one after --, as in -- /bin/sh"}
	}
	user, err := resolveUser(rootfs, config.Config.User)
	if err != nil {
		return nil, err
	}
	cwd := config.Config.WorkingDir
	if !strings.HasPrefix(cwd, "/") {
		cwd = "/" + cwd
	}
	return &runtime.Spec{
		Version: runtime.Version,
		Root:    &runtime.Root{Path: bundleRootfs},
		Process: &runtime.Process{
			Args: command, Cwd: cwd, User: user, NoNewPrivileges: true,
			Env:          withDefault(config.Config.Env, "PATH", defaultPath),
			Capabilities: capabilitiesFor(user.UID),
		},
		Mounts:      standardMounts(),
		Linux:       standardLinux(),
		Annotations: annotationsOf(config),
	}, nil
}

// defaultPath is where programs are looked for when the image does not say; docker's.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// withDefault sets a variable of an environment that does not have it.
func withDefault(env []string, name, value string) []string {
	if slices.ContainsFunc(env, func(pair string) bool { return strings.HasPrefix(pair, name+"=") }) {
		return env
	}
	return append([]string{name + "=" + value}, env...)
}

// capabilitiesFor are what containerd and docker give by default. Only root has them in effect; who is not gets them by files that carry
// them, and NoNewPrivileges forbids that.
func capabilitiesFor(uid uint32) *runtime.LinuxCapabilities {
	usual := []string{
		"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD", "CAP_NET_BIND_SERVICE",
		"CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
	}
	c := &runtime.LinuxCapabilities{Bounding: usual}
	if uid == 0 {
		c.Effective, c.Permitted = usual, usual
	}
	return c
}

// standardMounts are the file systems that the runtime spec names under "Default Filesystems", and those that programs expect beside them.
func standardMounts() []runtime.Mount {
	options := func(list ...string) []string { return append([]string{"nosuid", "noexec"}, list...) }
	return []runtime.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: options("nodev")},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: options("newinstance", "ptmxmode=0666", "mode=0620", "gid=5")},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: options("nodev", "mode=1777", "size=65536k")},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: options("nodev")},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: options("nodev", "ro")},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: options("nodev", "relatime", "ro")},
	}
}

// standardLinux keeps a container apart: its own namespaces, no devices but those that each has, nothing of the kernel's to read or set.
func standardLinux() *runtime.Linux {
	l := &runtime.Linux{
		Resources: &runtime.LinuxResources{Devices: []runtime.LinuxDeviceCgroup{{Access: "rwm"}}},
		MaskedPaths: []string{
			"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi",
			"/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
		},
		ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
	}
	for _, namespace := range []runtime.LinuxNamespaceType{
		runtime.PIDNamespace, runtime.IPCNamespace, runtime.UTSNamespace, runtime.MountNamespace, runtime.NetworkNamespace,
		runtime.CgroupNamespace,
	} {
		l.Namespaces = append(l.Namespaces, runtime.LinuxNamespace{Type: namespace})
	}
	return l
}

// annotationsOf are the labels of an image, and what of its config has no other place. A label goes before what is made of a field.
func annotationsOf(config image.Image) map[string]string {
	const prefix = "org.opencontainers.image."
	all := map[string]string{}
	for name, value := range map[string]string{
		"os": config.OS, "architecture": config.Architecture, "variant": config.Variant, "os.version": config.OSVersion,
		"os.features": strings.Join(config.OSFeatures, ","), "author": config.Author, "stopSignal": config.Config.StopSignal,
		"exposedPorts": strings.Join(slices.Sorted(maps.Keys(config.Config.ExposedPorts)), ","),
	} {
		if value != "" {
			all[prefix+name] = value
		}
	}
	if config.Created != nil {
		all[prefix+"created"] = config.Created.Format(time.RFC3339Nano)
	}
	maps.Copy(all, config.Config.Labels)
	return all
}

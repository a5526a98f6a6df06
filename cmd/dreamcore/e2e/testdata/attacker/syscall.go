package main

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attempt is a system call that must not succeed for the agent's user.
type attempt func() error

func call(name string) {
	try, ok := attempts[name]
	if !ok {
		fmt.Println("BREACH of the harness: no such call:", name)
		return
	}
	if err := try(); err != nil {
		fmt.Println(name+":", err)
		return
	}
	fmt.Println("BREACH", name, "succeeded")
}

// raw is a system call by its number.
func raw(trap uintptr, args ...uintptr) attempt {
	return func() error {
		var a [6]uintptr
		copy(a[:], args)
		_, _, e := unix.Syscall6(trap, a[0], a[1], a[2], a[3], a[4], a[5])
		if e != 0 {
			return e
		}
		return nil
	}
}

func socket(domain, typ, proto int) attempt {
	return func() error {
		fd, err := unix.Socket(domain, typ, proto)
		if err == nil {
			_ = unix.Close(fd)
		}
		return err
	}
}

// dial is a connection that must fail.
func dial(domain, typ int, to unix.Sockaddr) attempt {
	return func() error {
		fd, err := unix.Socket(domain, typ, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Connect(fd, to)
	}
}

func memory(b []byte) uintptr { return uintptr(unsafe.Pointer(&b[0])) }

var page = make([]byte, 4096)

var attempts = map[string]attempt{
	"ptrace-init":  func() error { return unix.PtraceAttach(1) },
	"ptrace-seize": raw(unix.SYS_PTRACE, unix.PTRACE_SEIZE, 1),
	"read-init-memory": func() error {
		local := []unix.Iovec{{Base: &page[0], Len: 16}}
		_, err := unix.ProcessVMReadv(1, local, []unix.RemoteIovec{{Base: 0x400000, Len: 16}}, 0)
		return err
	},
	"write-init-memory": func() error {
		local := []unix.Iovec{{Base: &page[0], Len: 16}}
		_, err := unix.ProcessVMWritev(1, local, []unix.RemoteIovec{{Base: 0x400000, Len: 16}}, 0)
		return err
	},
	"take-init-descriptor": func() error {
		fd, err := unix.PidfdOpen(1, 0)
		if err != nil {
			return err
		}
		_, err = unix.PidfdGetfd(fd, 0, 0)
		return err
	},
	"kill-init":      func() error { return unix.Kill(1, unix.SIGKILL) },
	"stop-init":      func() error { return unix.Kill(1, unix.SIGSTOP) },
	"kcmp-init":      raw(unix.SYS_KCMP, 1, 1, 0, 0, 1),
	"prlimit-init":   func() error { return unix.Prlimit(1, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1, Max: 1}, nil) },
	"raise-files":    func() error { return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}) },
	"io-uring":       raw(unix.SYS_IO_URING_SETUP, 8, memory(page)),
	"bpf":            raw(unix.SYS_BPF, 0, memory(page), 128),
	"perf":           raw(unix.SYS_PERF_EVENT_OPEN, memory(page), 0, ^uintptr(0), ^uintptr(0), 0),
	"userfault":      raw(unix.SYS_USERFAULTFD, 0),
	"keyctl-session": raw(unix.SYS_KEYCTL, 0, uintptr(^uint32(4)+1), 0),
	"keyctl-user":    raw(unix.SYS_KEYCTL, 11, uintptr(^uint32(3)+1), memory(page), 4096),
	"add-key":        func() error { _, err := unix.AddKey("user", "x", []byte("x"), unix.KEY_SPEC_USER_KEYRING); return err },
	"mount":          func() error { return unix.Mount("none", "/tmp", "tmpfs", 0, "") },
	"mount-proc":     func() error { return unix.Mount("proc", "/tmp", "proc", 0, "") },
	"mount-bind":     func() error { return unix.Mount("/", "/tmp", "", unix.MS_BIND|unix.MS_REC, "") },
	"remount":        func() error { return unix.Mount("", "/", "", unix.MS_REMOUNT, "") },
	"remount-global": func() error { return unix.Mount("", "/global", "", unix.MS_REMOUNT|unix.MS_BIND, "") },
	"umount":         func() error { return unix.Unmount("/usr", unix.MNT_DETACH) },
	"pivot":          func() error { return unix.PivotRoot("/tmp", "/tmp") },
	"chroot":         func() error { return unix.Chroot("/tmp") },
	"fsopen":         raw(unix.SYS_FSOPEN, memory([]byte("tmpfs\x00")), 0),
	"open-tree":      raw(unix.SYS_OPEN_TREE, uintptr(^uint32(99)), memory([]byte("/\x00")), 1),
	"handle-open":    func() error { return handle() },
	"setns-init":     func() error { return join("/proc/1/ns/mnt") },
	"setns-net":      func() error { return join("/proc/1/ns/net") },
	"setns-pid":      func() error { return join("/proc/1/ns/pid") },
	"setuid":         raw(unix.SYS_SETUID, 0),
	"setgid":         raw(unix.SYS_SETGID, 0),
	"setgroups":      func() error { return unix.Setgroups([]int{0}) },
	"capset": func() error {
		h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		return unix.Capset(&h, &unix.CapUserData{Effective: 1 << 21, Permitted: 1 << 21})
	},
	"new-privileges": func() error { return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0) },
	"seccomp-off":    func() error { return unix.Prctl(unix.PR_SET_SECCOMP, 0, 0, 0, 0) },
	"mknod-disk":     func() error { return unix.Mknod("/tmp/disk", unix.S_IFBLK|0o600, 8<<8) },
	"mknod-mem":      func() error { return unix.Mknod("/tmp/mem", unix.S_IFCHR|0o600, 1<<8|1) },
	"module":         raw(unix.SYS_INIT_MODULE, memory(page), 4096, memory(page)),
	"kexec":          raw(unix.SYS_KEXEC_LOAD, 0, 0, memory(page), 0),
	"reboot":         func() error { return unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_ON) },
	"hostname":       func() error { return unix.Sethostname([]byte("x")) },
	"clock":          func() error { return unix.Settimeofday(&unix.Timeval{Sec: 1}) },
	"swap":           raw(unix.SYS_SWAPON, memory([]byte("/tmp/x\x00")), 0),
	"accounting":     func() error { return unix.Acct("/tmp/acct") },
	"quota":          raw(unix.SYS_QUOTACTL, 0x80000200, memory([]byte("/dev/sda\x00")), 0, memory(page)),
	"syslog-clear":   raw(unix.SYS_SYSLOG, 5, memory(page), 0),
	"ioport":         func() error { return unix.Iopl(3) },
	"fanotify":       raw(unix.SYS_FANOTIFY_INIT, 0, 0),
	"packet":         socket(unix.AF_PACKET, unix.SOCK_RAW, 0x300),
	"packet-cooked":  socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0x300),
	"raw-icmp":       socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP),
	"raw-tcp":        socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_TCP),
	"raw-ip":         socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW),
	"raw-icmp6":      socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6),
	"vsock":          dial(unix.AF_VSOCK, unix.SOCK_STREAM, &unix.SockaddrVM{CID: 2, Port: 22}),
	"alg":            socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0),
	"bluetooth":      socket(unix.AF_BLUETOOTH, unix.SOCK_RAW, 1),
	"can":            socket(unix.AF_CAN, unix.SOCK_RAW, 1),
	"tipc":           socket(unix.AF_TIPC, unix.SOCK_RDM, 0),
	"xdp":            socket(unix.AF_XDP, unix.SOCK_RAW, 0),
	"nl-audit":       socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT),
	"nl-netfilter":   socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER),
	"abstract-dbus":  dial(unix.AF_UNIX, unix.SOCK_STREAM, &unix.SockaddrUnix{Name: "@/tmp/dbus"}),
	"abstract-x11":   dial(unix.AF_UNIX, unix.SOCK_STREAM, &unix.SockaddrUnix{Name: "@/tmp/.X11-unix/X0"}),
	"abstract-containerd": dial(unix.AF_UNIX, unix.SOCK_STREAM,
		&unix.SockaddrUnix{Name: "@/containerd-shim/default/x/shim.sock"}),
	"metadata-v4": dial(unix.AF_INET, unix.SOCK_STREAM, &unix.SockaddrInet4{Port: 80, Addr: [4]byte{169, 254, 169, 254}}),
	"metadata-mapped": dial(unix.AF_INET6, unix.SOCK_STREAM, &unix.SockaddrInet6{
		Port: 80, Addr: [16]byte{10: 0xff, 11: 0xff, 12: 169, 13: 254, 14: 169, 15: 254}}),
	"dns-udp": func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrInet4{Port: 53, Addr: [4]byte{8, 8, 8, 8}})
	},
	"multicast": func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrInet4{Port: 5353, Addr: [4]byte{224, 0, 0, 251}})
	},
	"broadcast": func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
		return unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrInet4{Port: 67, Addr: [4]byte{255, 255, 255, 255}})
	},
	"tun": func() error {
		// gVisor has the device; an interface is the breach.
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		request, err := unix.NewIfreq("tun0")
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	},
}

// handle opens a file of the host by its handle, as shocker did.
func handle() error {
	h, id, err := unix.NameToHandleAt(unix.AT_FDCWD, "/", 0)
	_ = id
	if err != nil {
		return err
	}
	dir, err := unix.Open("/", unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	_, err = unix.OpenByHandleAt(dir, h, unix.O_RDONLY)
	return err
}

func join(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Setns(int(f.Fd()), 0)
}

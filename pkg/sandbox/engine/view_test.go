package engine

import (
	"slices"
	"testing"

	"github.com/moby/sys/mountinfo"
)

func TestOnlyDisksOfOtherUsersAreHidden(t *testing.T) {
	mounts := []*mountinfo.Info{
		{Mountpoint: "/", Source: "/dev/loop0"},
		{Mountpoint: "/usr", Source: "/dev/loop1"},
		{Mountpoint: "/state/users/a", Source: "/dev/loop2"},
		{Mountpoint: "/state/users/ab", Source: "/dev/loop3"},
		{Mountpoint: "/state/users/b", Source: "/dev/loop4"},
		{Mountpoint: "/state/users/b/inner", Source: "/dev/loop5"},
		{Mountpoint: "/state/users/c", Source: "tmpfs"},
		{Mountpoint: "/opt/tools", Source: "/dev/loop6"},
	}
	paths := []string{"/usr", "/usr/lib", "/state/users/a/projects", "/opt"}
	want := []string{"/state/users/b/inner", "/state/users/b", "/state/users/ab"}
	if got := foreignDisks(mounts, paths); !slices.Equal(got, want) {
		t.Errorf("hidden: %q, not %q", got, want)
	}
}

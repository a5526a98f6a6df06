package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// maxEnvironment exceeds what the kernel allows for an environment, in bytes.
const maxEnvironment = 64 << 20

// wipeEnvironment overwrites the values of secrets in the block of variables that
// the kernel put on the stack. The runtime works on a copy, so Unsetenv changes
// nothing there, and other processes can read the block.
func wipeEnvironment() (err error) {
	start, end, err := environmentBlock()
	if err != nil {
		return fmt.Errorf("find the environment in memory: %w", err)
	}
	mem, err := os.OpenFile("/proc/self/mem", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mem.Close()) }()
	block := make([]byte, end-start)
	defer clear(block)
	if _, err := mem.ReadAt(block, start); err != nil {
		return err
	}
	at := start
	for kv := range bytes.SplitSeq(block, []byte{0}) {
		name, value, _ := bytes.Cut(kv, []byte("="))
		if len(value) > 0 && slices.Contains(secretNames, string(name)) {
			if _, err := mem.WriteAt(make([]byte, len(value)), at+int64(len(name)+len("="))); err != nil {
				return err
			}
		}
		at += int64(len(kv) + len("\x00"))
	}
	return nil
}

// environmentBlock returns the bounds of the variables in memory: proc_pid_stat(5).
func environmentBlock() (start, end int64, err error) {
	raw, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return 0, 0, err
	}
	const envStart, envEnd, afterName = 50, 51, 3 // numbers of fields, from 1
	// The name of the program, in parentheses, may hold anything.
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	if len(fields) <= envEnd-afterName {
		return 0, 0, errors.New("/proc/self/stat has too few fields")
	}
	start, err = strconv.ParseInt(fields[envStart-afterName], 10, 64)
	if err == nil {
		end, err = strconv.ParseInt(fields[envEnd-afterName], 10, 64)
	}
	if err == nil && (start <= 0 || end < start || end-start > maxEnvironment) {
		err = errors.New("/proc/self/stat has no valid bounds of the environment")
	}
	return start, end, err
}

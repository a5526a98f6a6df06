// Command badcli replaces the agent and misbehaves as the first word of its prompt
// selects.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const success = `{"type":"result","subtype":"success","is_error":false,"result":"ok","num_turns":1}`

// succeed makes a game and reports success.
func succeed() {
	if err := os.WriteFile("index.html", []byte(time.Now().String()), 0o644); err != nil {
		panic(err)
	}
	fmt.Println(success)
}

func main() {
	var message struct{ Message struct{ Content string } }
	for lines := json.NewDecoder(os.Stdin); message.Message.Content == ""; { // requests to the agent itself may come first
		if err := lines.Decode(&message); err != nil {
			panic(err)
		}
	}
	lines := strings.Split(strings.TrimSpace(message.Message.Content), "\n")
	words := strings.Fields(lines[len(lines)-1])
	switch words[0] {
	case "garbage":
		_, _ = os.Stdout.Write([]byte("\x00\xff\xfe not json \x1b[31m\n{\"cut\n[1,2]\n"))
		succeed()
	case "longline":
		fmt.Printf(`{"type":"user","x":"%s"}`+"\n", bytes.Repeat([]byte("x"), 5<<20))
		succeed()
	case "hugeline":
		chunk := bytes.Repeat([]byte("x"), 1<<20)
		for range 40 {
			_, _ = os.Stdout.Write(chunk)
		}
		fmt.Println()
		succeed()
	case "nothing":
	case "forge":
		fmt.Println(`{"type":"done","exit_code":0}`)
		os.Exit(1)
	case "liar":
		fmt.Println(`{"type":"result","subtype":"success","is_error":true,"result":"no"}`)
	case "many":
		for i := range 1500 {
			fmt.Printf(`{"type":"user","n":%d}`+"\n", i)
		}
		succeed()
	case "signal":
		// A shell, because Go's runtime handles some signals itself.
		_ = syscall.Exec("/bin/sh", []string{"sh", "-c", "kill -" + words[1] + " $$; sleep 60"}, os.Environ())
	case "exit":
		n, _ := strconv.Atoi(words[1])
		fmt.Fprintln(os.Stderr, "a reason on standard error")
		os.Exit(n)
	case "leave":
		// A child in a session of its own that holds the output open.
		cmd := exec.Command("/usr/bin/setsid", "sleep", "600")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		_ = cmd.Start()
		succeed()
	case "linger":
		cmd := exec.Command("/usr/bin/setsid", "sleep", "600")
		_ = cmd.Start()
		succeed()
		for {
			time.Sleep(time.Hour)
		}
	case "crash-once":
		mark := os.Getenv("HOME") + "/crashed"
		if _, err := os.Stat(mark); err == nil {
			succeed()
			return
		}
		_ = os.WriteFile(mark, nil, 0o600)
		_ = syscall.Exec("/bin/sh", []string{"sh", "-c", "kill -11 $$; sleep 60"}, os.Environ())
	case "empty":
		fmt.Println(success)
	case "memory":
		var held [][]byte
		for {
			b := make([]byte, 16<<20)
			for i := range b {
				b[i] = 1
			}
			held = append(held, b)
			_ = held
		}
	case "hang":
		for {
			time.Sleep(time.Hour)
		}
	}
}

// Command standin stands for dreamcore-check in tests of what the host does with
// drivers that break the rules. The first host of a request selects the rule.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	switch {
	case len(os.Args) == 3 && os.Args[1] == "serve":
		serve(os.Args[2])
	case len(os.Args) == 2 && os.Args[1] == "browse":
		browse()
	}
	os.Exit(2)
}

func serve(dir string) {
	if _, err := os.ReadFile(filepath.Join(dir, "index.html")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(`{"port":8000}`)
	time.Sleep(time.Hour)
}

func browse() {
	// Like a browser's processes, it outlives the driver.
	child := exec.Command("/bin/sleep", "1001")
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := child.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := os.WriteFile("/tmp/browser-was-here", nil, 0o600); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(`{"ready":"Standin/1"}`)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var q struct {
			Port  int
			Hosts []string
		}
		if err := json.Unmarshal(in.Bytes(), &q); err != nil || q.Port != 8000 {
			fmt.Fprintln(os.Stderr, "request", in.Text())
			os.Exit(1)
		}
		answer(strings.Join(q.Hosts, ","))
	}
	os.Exit(0)
}

func answer(rule string) {
	const passed = `{"report":{"verdict":"passed","checks":[{"name":"loads","screen":"phone","status":"passed"}],"browser":"Standin/1","millis":5}}`
	switch rule {
	case "die":
		fmt.Fprintln(os.Stderr, "last\x1b words")
		os.Exit(7)
	case "hang":
		if err := os.WriteFile("/tmp/browser-was-asked", nil, 0o600); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		time.Sleep(time.Hour)
	case "flood":
		for {
			fmt.Println(passed)
		}
	case "long":
		for {
			fmt.Print(strings.Repeat("x", 1<<16))
		}
	case "garbage":
		fmt.Println("certainly")
	case "empty":
		fmt.Println("{}")
	case "refuse":
		fmt.Println(`{"error":"no page"}`)
	default:
		fmt.Println(passed)
	}
}

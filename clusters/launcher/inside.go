package main

// A look inside the pod, for a caller who speaks frames (a kind, a length, bytes) on our standard input and output. The
// first frame asks, in JSON: for a command in this container, or for a port of the pod. Kubernetes' own exec knows
// neither signals nor how to end what a broken connection left; this does, and it carries datagrams too.

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

const (
	kindData byte = iota
	kindErrors
	kindResize
	kindSignal
	kindEnd
	kindExit
	kindRefused
	kindStarted
)

const (
	head     = 5
	largest  = 1 << 20
	piece    = 64 << 10
	glance   = 500 * time.Millisecond
	hungUp   = 0x18 // POLLERR | POLLHUP
	readable = 0x1  // POLLIN
	notFound = 127
	notRun   = 126
	pathOnly = 0x200000 // O_PATH
)

type ask struct {
	Argv []string `json:"argv"`
	TTY  bool     `json:"tty"`
	Rows uint16   `json:"rows"`
	Cols uint16   `json:"cols"`
	Term string   `json:"term"`
	Port int      `json:"port"`
	UDP  bool     `json:"udp"`
}

// caller is the other side. What it does not take makes us wait.
type caller struct {
	mutex sync.Mutex
	in    *os.File
	out   io.Writer
}

func (c *caller) say(kind byte, data []byte) error {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	frame := make([]byte, head, head+len(data))
	frame[0] = kind
	binary.BigEndian.PutUint32(frame[1:], uint32(len(data)))
	_, err := c.out.Write(append(frame, data...))
	return err
}

// hear gives the next frame; io.EOF when the caller has gone.
func (c *caller) hear() (byte, []byte, error) {
	var begin [head]byte
	if _, err := io.ReadFull(c.in, begin[:]); err != nil {
		return 0, nil, err
	}
	length := binary.BigEndian.Uint32(begin[1:])
	if length > largest {
		return 0, nil, fmt.Errorf("a frame of %d bytes", length)
	}
	data := make([]byte, length)
	_, err := io.ReadFull(c.in, data)
	return begin[0], data, err
}

func (c *caller) refuse(code, sentence string) {
	said, _ := json.Marshal(map[string]any{
		"code": code, "sentence": sentence, "evidence": map[string]any{}, "next_command": "",
	})
	c.say(kindRefused, said)
}

// gone calls `leave` when the caller has hung up, even while nobody reads what it sent before.
func (c *caller) gone(leave func()) {
	for polled(c.in, 0)&hungUp == 0 {
		time.Sleep(glance)
	}
	leave()
}

// polled gives what poll says of a file at this moment, of what is asked for and of errors.
func polled(file *os.File, events int16) int16 {
	one := struct {
		fd              int32
		events, revents int16
	}{fd: int32(file.Fd()), events: events}
	var wait syscall.Timespec
	syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&one)), 1, uintptr(unsafe.Pointer(&wait)), 0, 0, 0)
	return one.revents
}

// inside serves one caller to the end. The exit code says only whether there was one.
func inside(folder string, in *os.File, out io.Writer) (int, error) {
	to := &caller{in: in, out: out}
	_, body, err := to.hear()
	if err != nil {
		return 0, err
	}
	var what ask
	if err := json.Unmarshal(body, &what); err != nil {
		return 0, err
	}
	switch {
	case len(what.Argv) > 0:
		enter(folder, what, to)
	case what.UDP:
		datagrams(what.Port, to)
	default:
		connection(what.Port, to)
	}
	// Whoever carries our last words drops what is still under way when we end, so the caller hangs up first.
	to.gone(func() {})
	return 0, nil
}

// word passes one on to the command's keeper: a file, which means something only while a failed command is held. This
// runs in the container beside the task, who may put links into the folder: none is followed.
func word(folder, what string) (int, error) {
	inner, err := syscall.Open(folder, pathOnly|syscall.O_DIRECTORY|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	held, err := syscall.Openat(inner, "held", pathOnly|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0)
	if err == syscall.ENOENT {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	syscall.Close(held)
	made, err := syscall.Openat(inner, what, kindless|syscall.O_WRONLY|syscall.O_CREAT, 0o666)
	if err != nil {
		return 0, err
	}
	return 0, syscall.Close(made)
}

// mark is a variable that everything which a session starts inherits, so that it can be found wherever it went.
func mark() string {
	var some [8]byte
	rand.Read(some[:])
	return "OSMO_SESSION=" + hex.EncodeToString(some[:])
}

// endAll ends what a session left: whatever has its mark, and whatever is below this process.
func endAll(mark string) {
	for range 20 {
		found := left(mark)
		for _, pid := range found {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		orphans := reaped()
		if len(found) == 0 && !orphans {
			return
		}
		time.Sleep(look)
	}
}

// reaped takes note of children that have ended; whether any have not yet.
func reaped() bool {
	for {
		var status syscall.WaitStatus
		found, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err != nil && err != syscall.EINTR {
			return false
		}
		if found == 0 {
			return true
		}
	}
}

func left(mark string) []int {
	parents := map[int]int{}
	var found []int
	names, _ := filepath.Glob("/proc/[0-9]*")
	for _, name := range names {
		var pid, parent int
		var state byte
		fmt.Sscan(filepath.Base(name), &pid)
		data, err := os.ReadFile(filepath.Join(name, "stat"))
		if at := bytes.LastIndexByte(data, ')'); err == nil && at > 0 {
			fmt.Sscanf(string(data[at+1:]), " %c %d", &state, &parent)
		}
		if state == 'Z' || state == 0 {
			continue
		}
		parents[pid] = parent
		own, _ := os.ReadFile(filepath.Join(name, "environ"))
		if bytes.Contains(own, []byte(mark+"\x00")) {
			found = append(found, pid)
		}
	}
	for pid := range parents {
		for one := parents[pid]; one > 1; one = parents[one] {
			if one == os.Getpid() {
				found = append(found, pid)
				break
			}
		}
	}
	return found
}

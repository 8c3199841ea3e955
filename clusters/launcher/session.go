package main

import (
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

const (
	quietLooks    = 5
	mostLastWords = 1 << 20
	hangUp        = 2 * time.Second
	subreaper     = 36
	unlock        = 0x40045431 // TIOCSPTLCK
	peer          = 0x5441     // TIOCGPTPEER
	waiting       = 8
)

// running is a command of a session, under a terminal of its own or with three pipes.
type running struct {
	to      *caller
	pid     int
	master  *os.File // nil without a terminal
	input   *os.File
	queue   chan []byte
	said    atomic.Int64 // bytes
	writing atomic.Int32
}

// enter runs a command where the task's own runs, and ends all that it started when the caller goes.
func enter(folder string, what ask, to *caller) {
	begun, err := read(folder)
	if err != nil {
		to.refuse("NotRunning", "the task's command is not running at this moment")
		return
	}
	own := mark()
	extra := map[string]string{"TERM": what.Term, own[:12]: own[13:]}
	maps.Copy(extra, begun.Env)
	extra["TERM"] = what.Term
	environment := merged(extra)
	syscall.RawSyscall(syscall.SYS_PRCTL, subreaper, 1, 0)
	defer endAll(own)
	program, err := lookPath(what.Argv[0], environment)
	if err != nil {
		failed(to, what, notFound, "there is no such program in this task")
		return
	}
	command := &exec.Cmd{Path: program, Args: what.Argv, Env: environment}
	session := &running{to: to, queue: make(chan []byte, waiting)}
	sources, err := session.begin(command, what)
	if err != nil {
		failed(to, what, notRun, err.Error())
		return
	}
	session.serve(command, sources)
}

func failed(to *caller, what ask, code int, why string) {
	to.say(kindStarted, nil)
	kind := kindErrors
	if what.TTY {
		kind = kindData
	}
	to.say(kind, fmt.Appendf(nil, "osmo: %s: %s\r\n", what.Argv[0], why))
	to.say(kindExit, binary.BigEndian.AppendUint32(nil, uint32(code)))
}

type source struct {
	file *os.File
	kind byte
}

func (r *running) begin(command *exec.Cmd, what ask) ([]source, error) {
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var theirs []*os.File
	var sources []source
	if what.TTY {
		master, slave, err := terminal(what.Rows, what.Cols)
		if err != nil {
			return nil, err
		}
		command.SysProcAttr.Setctty = true
		command.Stdin, command.Stdout, command.Stderr = slave, slave, slave
		r.master, r.input, theirs = master, master, []*os.File{slave}
		sources = []source{{master, kindData}}
	} else {
		files, err := pipes(3)
		if err != nil {
			return nil, err
		}
		command.Stdin, command.Stdout, command.Stderr = files[0], files[3], files[5]
		r.input, theirs = files[1], []*os.File{files[0], files[3], files[5]}
		sources = []source{{files[2], kindData}, {files[4], kindErrors}}
	}
	err := command.Start()
	for _, one := range theirs {
		one.Close()
	}
	if err != nil {
		return nil, err
	}
	r.pid = command.Process.Pid
	return sources, nil
}

// pipes gives the ends of each for reading and writing, in turn.
func pipes(number int) ([]*os.File, error) {
	var all []*os.File
	for range number {
		out, in, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		all = append(all, out, in)
	}
	return all, nil
}

func terminal(rows, cols uint16) (*os.File, *os.File, error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	var zero int32
	if _, err := control(master, unlock, uintptr(unsafe.Pointer(&zero))); err != nil {
		return nil, nil, err
	}
	fd, err := control(master, peer, syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC)
	if err != nil {
		return nil, nil, err
	}
	resize(master, rows, cols)
	return master, os.NewFile(fd, "terminal"), nil
}

func control(file *os.File, request, value uintptr) (uintptr, error) {
	found, _, errno := syscall.Syscall(syscall.SYS_IOCTL, file.Fd(), request, value)
	if errno != 0 {
		return 0, errno
	}
	return found, nil
}

func resize(master *os.File, rows, cols uint16) {
	size := [4]uint16{max(rows, 1), max(cols, 1)}
	control(master, syscall.TIOCSWINSZ, uintptr(unsafe.Pointer(&size)))
}

// serve stays until the command has ended, or the caller has gone.
func (r *running) serve(command *exec.Cmd, sources []source) {
	r.to.say(kindStarted, nil)
	silent := make(chan struct{}, len(sources))
	for _, one := range sources {
		go r.pass(one, silent)
	}
	ended, gone := make(chan struct{}), make(chan struct{}, 2)
	leave := func() { gone <- struct{}{} }
	go r.write()
	go r.listen(leave)
	go r.to.gone(leave)
	go func() { command.Wait(); close(ended) }()
	select {
	case <-gone:
		syscall.Kill(-r.pid, syscall.SIGHUP)
		select {
		case <-ended:
		case <-time.After(hangUp):
		}
		return
	case <-ended:
	}
	r.lastWords(silent, sources, gone)
	code := command.ProcessState.ExitCode()
	if status, ok := command.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		code = 128 + int(status.Signal())
	}
	r.to.say(kindExit, binary.BigEndian.AppendUint32(nil, uint32(int32(code))))
}

// pass gives the caller what the command writes.
func (r *running) pass(from source, silent chan<- struct{}) {
	buffer := make([]byte, piece)
	for {
		n, err := from.file.Read(buffer)
		if n > 0 {
			r.writing.Add(1)
			r.said.Add(int64(n))
			r.to.say(from.kind, buffer[:n])
			r.writing.Add(-1)
		}
		if err != nil {
			silent <- struct{}{}
			return
		}
	}
}

// lastWords waits for what the command wrote before its end, not for what it left running. Looks are counted, not
// time: this process may itself have been held up.
func (r *running) lastWords(silent <-chan struct{}, sources []source, gone <-chan struct{}) {
	most, left, quiet, said := r.said.Load()+mostLastWords, len(sources), 0, int64(-1)
	for left > 0 && r.said.Load() < most && quiet < quietLooks {
		select {
		case <-gone:
			return
		case <-silent:
			left--
		case <-time.After(look):
			quiet++
			if now := r.said.Load(); now != said || r.writing.Load() > 0 || slices.ContainsFunc(sources, source.waits) {
				quiet, said = 0, now
			}
		}
	}
}

// waits says whether there is something to read.
func (s source) waits() bool { return polled(s.file, readable)&readable != 0 }

// write gives the command what was sent; a nil is the end of its input.
func (r *running) write() {
	for data := range r.queue {
		switch {
		case data != nil:
			r.input.Write(data)
		case r.master != nil:
			r.master.Write([]byte{4})
		default:
			r.input.Close()
		}
	}
}

// listen does what the caller says until it goes.
func (r *running) listen(leave func()) {
	for {
		kind, body, err := r.to.hear()
		if err != nil {
			leave()
			return
		}
		switch {
		case kind == kindData && len(body) > 0:
			r.queue <- body
		case kind == kindEnd:
			r.queue <- nil
		case kind == kindResize && len(body) == 4 && r.master != nil:
			resize(r.master, binary.BigEndian.Uint16(body), binary.BigEndian.Uint16(body[2:]))
		case kind == kindSignal && len(body) == 1 && body[0] > 0 && body[0] < 65:
			r.signal(syscall.Signal(body[0]))
		}
	}
}

// signal goes to what is in front on the terminal, else to the command and what it started in its group.
func (r *running) signal(number syscall.Signal) {
	front := int32(r.pid)
	if r.master != nil {
		var group int32
		if _, err := control(r.master, syscall.TIOCGPGRP, uintptr(unsafe.Pointer(&group))); err == nil && group > 0 {
			front = group
		}
	}
	syscall.Kill(-int(front), number)
}

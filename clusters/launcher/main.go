// The first process of a user's container: it runs one command and leaves word of how it ended.
//
// It is static and needs nothing of the image. All it knows stands in a folder shared with the container beside it:
//
//	start.json   what to run (read)
//	go           the barrier is open (waited for when start.json says so)
//	lock         held while this process lives, so that its death is seen even after SIGKILL
//	began        made once the lock is held
//	log          the command's output, stamped line by line (appended)
//	end.json     how it ended (written last, by renaming)
//	masked       forms of secrets that no output may show (read)
//	reader       a socket that hands out open files of this container, when start.json says so
//	ended        how it ended, when somebody beside still has to keep its files
//	kept         they are kept
//	held         there while a failed command is held, with its end
//	release      ends a hold
//	rerun        ends a hold, and the command runs again
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	look    = 20 * time.Millisecond
	longest = 64 << 10
	idle    = time.Second
	drain   = 2 * time.Second
)

type start struct {
	Argv    []string          `json:"argv"`
	Env     map[string]string `json:"env"`
	Barrier bool              `json:"barrier"`
	Hold    float64           `json:"hold"`
	Keep    bool              `json:"keep"`
}

type ending struct {
	Exit    *int    `json:"exit,omitempty"`
	Signal  int     `json:"signal,omitempty"`
	Error   string  `json:"error,omitempty"`
	Message string  `json:"message,omitempty"`
	Began   float64 `json:"began"`
	Ended   float64 `json:"ended"`
	CPU     float64 `json:"cpu"`
	Peak    int64   `json:"peak"`
}

func main() {
	code, err := chosen(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "osmo-launcher:", err)
		code = 125
	}
	os.Exit(code)
}

// chosen does what the arguments say: FOLDER runs the task's command; `inside FOLDER` serves a session, `release` and
// `rerun FOLDER` end a hold, `held FOLDER` says whether there is one.
func chosen(words []string) (int, error) {
	if len(words) == 0 {
		words = []string{"/osmo/run"}
	}
	if len(words) == 1 {
		return run(words[0])
	}
	switch words[0] {
	case "inside":
		return inside(words[1], os.Stdin, os.Stdout)
	case "release", "rerun":
		return word(words[1], words[0])
	case "held":
		_, err := os.Stat(filepath.Join(words[1], "held"))
		return 0, err
	}
	return 0, fmt.Errorf("there is no verb %q", words[0])
}

func run(folder string) (int, error) {
	// The command may run as the same user. It shall not reach into us and let go of the lock while it lives.
	syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_DUMPABLE, 0, 0)
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	what, err := read(folder)
	if err != nil {
		return 0, err
	}
	lock, err := os.OpenFile(filepath.Join(folder, "lock"), os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return 0, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return 0, err
	}
	if err := os.WriteFile(filepath.Join(folder, "began"), nil, 0o644); err != nil {
		return 0, err
	}
	if what.Barrier && !await(signals, 0, filepath.Join(folder, "go")) {
		return 143, nil
	}
	if what.Keep {
		if err := reader(folder); err != nil {
			return 0, err
		}
	}
	for runs := 2; ; runs++ {
		end := command(folder, what, signals)
		if what.Keep && !kept(folder, end, signals) {
			return end.code(), leave(folder, "end.json", end)
		}
		if !end.failed() || what.Hold <= 0 || !hold(folder, what.Hold, end, signals) {
			return end.code(), leave(folder, "end.json", end)
		}
		say(folder, fmt.Sprintf("-------- exit code %d; runs again in place (run %d) --------", end.code(), runs))
	}
}

// say writes a line of the platform's own into the log.
func say(folder, text string) {
	log, err := os.OpenFile(filepath.Join(folder, "log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666)
	if err != nil {
		return
	}
	defer log.Close()
	fmt.Fprintf(log, "%d P %s\n", time.Now().UnixMilli(), text)
}

func read(folder string) (start, error) {
	var what start
	data, err := os.ReadFile(filepath.Join(folder, "start.json"))
	if err == nil {
		err = json.Unmarshal(data, &what)
	}
	if err == nil && len(what.Argv) == 0 {
		err = fmt.Errorf("start.json names no command")
	}
	return what, err
}

// await returns true when one of the files is there or the time is over, false when a signal says to end.
func await(signals <-chan os.Signal, limit time.Duration, paths ...string) bool {
	begun := time.Now()
	for limit == 0 || time.Since(begun) < limit {
		for _, path := range paths {
			if _, err := os.Stat(path); err == nil {
				return true
			}
		}
		select {
		case <-signals:
			return false
		case <-time.After(look):
		}
	}
	return true
}

func (e ending) failed() bool { return e.code() != 0 }

func (e ending) code() int {
	switch {
	case e.Error != "":
		return 127
	case e.Signal != 0:
		return 128 + e.Signal
	case e.Exit != nil:
		return *e.Exit
	}
	return 125
}

func leave(folder, name string, end ending) error {
	data, err := json.Marshal(end)
	if err != nil {
		return err
	}
	part := filepath.Join(folder, "."+name)
	if err := os.WriteFile(part, data, 0o644); err != nil {
		return err
	}
	return os.Rename(part, filepath.Join(folder, name))
}

// command runs it in a session of its own and stays until nothing of it is left.
func command(folder string, what start, signals <-chan os.Signal) ending {
	end := ending{Began: now()}
	finish := func(e ending) ending { e.Ended = now(); return e }
	environment := merged(what.Env)
	what.Argv = filled(what.Argv)
	program, err := lookPath(what.Argv[0], environment)
	if err != nil {
		end.Error, end.Message = "missing", what.Argv[0]
		return finish(end)
	}
	output, input, err := os.Pipe()
	if err != nil {
		end.Error, end.Message = "exec", err.Error()
		return finish(end)
	}
	secrets, err := masking(filepath.Join(folder, "masked"))
	if err != nil {
		end.Error, end.Message = "exec", err.Error()
		return finish(end)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		end.Error, end.Message = "exec", err.Error()
		return finish(end)
	}
	attributes := &syscall.ProcAttr{
		Env:   environment,
		Files: []uintptr{null.Fd(), input.Fd(), input.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	pid, err := syscall.ForkExec(program, what.Argv, attributes)
	input.Close()
	null.Close()
	if err != nil {
		end.Error, end.Message = kind(err), fmt.Sprintf("%s: %v", what.Argv[0], err)
		return finish(end)
	}
	read := make(chan struct{})
	go copyLog(output, filepath.Join(folder, "log"), secrets, read)
	ended := make(chan struct{})
	go forward(pid, signals, ended)
	status := reap(pid)
	close(ended)
	sweep()
	select {
	case <-read:
	case <-time.After(drain):
	}
	return finish(told(end, status))
}

// filled puts the value of a variable where its name stands between zero bytes.
func filled(words []string) []string {
	all := make([]string, len(words))
	for at, one := range words {
		parts := strings.Split(one, "\x00")
		for n := 1; n < len(parts); n += 2 {
			parts[n] = os.Getenv(parts[n])
		}
		all[at] = strings.Join(parts, "")
	}
	return all
}

func merged(extra map[string]string) []string {
	var all []string
	for _, one := range os.Environ() {
		name, _, _ := bytes.Cut([]byte(one), []byte("="))
		if _, given := extra[string(name)]; !given {
			all = append(all, one)
		}
	}
	for name, value := range extra {
		all = append(all, name+"="+value)
	}
	return all
}

// lookPath searches the PATH that the command will have, which may differ from ours.
func lookPath(program string, environment []string) (string, error) {
	for _, one := range environment {
		if len(one) > 5 && one[:5] == "PATH=" {
			os.Setenv("PATH", one[5:])
		}
	}
	return exec.LookPath(program)
}

func kind(err error) string {
	switch err {
	case syscall.ENOENT:
		return "interpreter"
	case syscall.ENOEXEC:
		return "format"
	}
	return "exec"
}

// forward passes signals on to the command's session until it has ended; those that come later are for us.
func forward(pid int, signals <-chan os.Signal, ended <-chan struct{}) {
	for {
		select {
		case <-ended:
			return
		case one := <-signals:
			if number, ok := one.(syscall.Signal); ok {
				syscall.Kill(-pid, number)
			}
		}
	}
}

// reap waits for the command, and on the way for every orphan: this is the container's first process.
func reap(pid int) syscall.WaitStatus {
	var status syscall.WaitStatus
	for {
		found, err := syscall.Wait4(-1, &status, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || found == pid {
			return status
		}
	}
}

// sweep ends what the command left running, as the end of a container does.
func sweep() {
	if os.Getpid() != 1 {
		return
	}
	syscall.Kill(-1, syscall.SIGKILL)
	var status syscall.WaitStatus
	for {
		if _, err := syscall.Wait4(-1, &status, 0, nil); err != nil && err != syscall.EINTR {
			return
		}
	}
}

func told(end ending, status syscall.WaitStatus) ending {
	if status.Signaled() {
		end.Signal = int(status.Signal())
	} else {
		code := status.ExitStatus()
		end.Exit = &code
	}
	var used syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_CHILDREN, &used) == nil {
		seconds := func(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
		end.CPU = seconds(used.Utime) + seconds(used.Stime)
		end.Peak = used.Maxrss * 1024
	}
	for _, file := range []string{"/sys/fs/cgroup/memory.peak", "/sys/fs/cgroup/memory/memory.max_usage_in_bytes"} {
		if data, err := os.ReadFile(file); err == nil {
			if peak, err := strconv.ParseInt(string(bytes.TrimSpace(data)), 10, 64); err == nil {
				end.Peak = max(end.Peak, peak)
			}
		}
	}
	return end
}

func now() float64 { return float64(time.Now().UnixMicro()) / 1e6 }

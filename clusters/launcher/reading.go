package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

const (
	packet   = 64 << 10
	kindless = syscall.O_RDONLY | syscall.O_NOFOLLOW | syscall.O_NONBLOCK | syscall.O_CLOEXEC
)

// reader hands open files of this container to whoever connects to a socket in the shared folder: one packet with a
// path asks, and each regular file below it is answered by one packet with its open file. So the container beside this
// one uploads checkpoints of any path, and sees none. A task that speaks to it learns what it can read anyway.
func reader(folder string) error {
	path := filepath.Join(folder, "reader")
	server, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := syscall.Bind(server, &syscall.SockaddrUnix{Name: path}); err != nil {
		return err
	}
	if err := os.Chmod(path, 0o666); err != nil {
		return err
	}
	if err := syscall.Listen(server, 8); err != nil {
		return err
	}
	go func() {
		for {
			one, _, err := syscall.Accept4(server, syscall.SOCK_CLOEXEC)
			if err == nil {
				go handOut(one)
			} else if err != syscall.EINTR && err != syscall.ECONNABORTED {
				return
			}
		}
	}()
	return nil
}

type found struct {
	Path string `json:"path"`
	Size int64  `json:"size"`
	At   int64  `json:"at"`
}

func handOut(to int) {
	defer syscall.Close(to)
	buffer := make([]byte, packet)
	n, err := syscall.Read(to, buffer)
	if err != nil || n <= 0 {
		return
	}
	top := string(buffer[:n])
	folder, err := syscall.Open(top, kindless&^syscall.O_NOFOLLOW|syscall.O_DIRECTORY, 0)
	if err == nil {
		err = walk(to, os.NewFile(uintptr(folder), top), "")
	}
	answer := map[string]any{"end": true}
	if err != nil {
		answer = map[string]any{"error": fmt.Sprintf("%s: %v", top, err)}
	}
	send(to, answer, -1)
}

// walk goes through an open folder; links are not followed, what goes away meanwhile is passed over.
func walk(to int, folder *os.File, prefix string) error {
	defer folder.Close()
	names, err := folder.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		fd, err := syscall.Openat(int(folder.Fd()), name, kindless, 0)
		if err != nil {
			continue
		}
		var info syscall.Stat_t
		if syscall.Fstat(fd, &info) != nil {
			syscall.Close(fd)
			continue
		}
		switch info.Mode & syscall.S_IFMT {
		case syscall.S_IFDIR:
			if err := walk(to, os.NewFile(uintptr(fd), name), prefix+name+"/"); err != nil {
				return err
			}
			continue
		case syscall.S_IFREG:
			err = send(to, found{prefix + name, info.Size, syscall.TimespecToNsec(info.Mtim)}, fd)
		}
		syscall.Close(fd)
		if err != nil {
			return err
		}
	}
	return nil
}

func send(to int, what any, fd int) error {
	data, err := json.Marshal(what)
	if err != nil {
		return err
	}
	var rights []byte
	if fd >= 0 {
		rights = syscall.UnixRights(fd)
	}
	for {
		err := syscall.Sendmsg(to, data, rights, nil, syscall.MSG_NOSIGNAL)
		if err != syscall.EINTR {
			return err
		}
	}
}

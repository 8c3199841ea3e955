package main

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"
)

const (
	patience    = 10 * time.Second
	sender      = 6 // bytes: IPv4 address and port of the sender outside, before each datagram
	mostSenders = 256
)

// connection carries bytes to a port of the pod until either side has gone.
func connection(port int, to *caller) {
	inner, err := dial(port)
	if err != nil {
		to.refuse("NotRunning", err.Error())
		return
	}
	to.say(kindStarted, nil)
	over := make(chan struct{}, 3)
	leave := func() { over <- struct{}{} }
	go to.gone(leave)
	go func() {
		defer leave()
		for {
			kind, body, err := to.hear()
			if err != nil {
				return
			}
			if kind == kindData {
				if _, err := inner.Write(body); err != nil {
					return
				}
			} else if kind == kindEnd {
				inner.CloseWrite()
			}
		}
	}()
	go func() {
		defer leave()
		buffer := make([]byte, piece)
		for {
			n, err := inner.Read(buffer)
			if n > 0 && to.say(kindData, buffer[:n]) != nil {
				return
			}
			if err != nil {
				to.say(kindEnd, nil)
				return
			}
		}
	}()
	<-over
}

func dial(port int) (*net.TCPConn, error) {
	var refused error
	for _, address := range []string{"127.0.0.1", "[::1]"} {
		found, err := net.DialTimeout("tcp", fmt.Sprintf("%s:%d", address, port), patience)
		if err == nil {
			return found.(*net.TCPConn), nil
		}
		if refused == nil {
			refused = err
		}
	}
	if errors.Is(refused, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("nothing listens on port %d of the task", port)
	}
	return nil, fmt.Errorf("port %d of the task does not answer: %v", port, refused)
}

// wires holds one socket inside per sender outside; the oldest goes when there are too many.
type wires struct {
	mutex sync.Mutex
	known map[[sender]byte]net.Conn
	order [][sender]byte
}

// datagrams carries them until the caller has gone. Those that do not fit are lost, as on any wire.
func datagrams(port int, to *caller) {
	all := &wires{known: map[[sender]byte]net.Conn{}}
	to.say(kindStarted, nil)
	for {
		kind, body, err := to.hear()
		if err != nil {
			return
		}
		if kind != kindData || len(body) < sender {
			continue
		}
		if wire, err := all.of([sender]byte(body), port, to); err == nil {
			wire.Write(body[sender:])
		}
	}
}

func (w *wires) of(from [sender]byte, port int, to *caller) (net.Conn, error) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if found, ok := w.known[from]; ok {
		return found, nil
	}
	made, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return nil, err
	}
	if len(w.order) >= mostSenders {
		w.known[w.order[0]].Close()
		delete(w.known, w.order[0])
		w.order = w.order[1:]
	}
	w.known[from], w.order = made, append(w.order, from)
	go answers(made, from, to)
	return made, nil
}

// answers passes on what comes back to one sender, until its socket is closed. A port that refuses may open later.
func answers(wire net.Conn, from [sender]byte, to *caller) {
	buffer := make([]byte, sender+piece)
	copy(buffer, from[:])
	for {
		n, err := wire.Read(buffer[sender:])
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil && to.say(kindData, buffer[:sender+n]) != nil {
			return
		}
	}
}

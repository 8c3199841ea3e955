package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"
)

// copyLog stamps whole lines into the log as they come, and passes the bytes on as they are for `kubectl logs`.
func copyLog(output io.Reader, path string, secrets *masker, done chan<- struct{}) {
	defer close(done)
	log, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666)
	if err != nil {
		fmt.Fprintln(os.Stderr, "osmo-launcher: the log cannot be written:", err)
		io.Copy(io.Discard, output)
		return
	}
	defer log.Close()
	lines := &stamper{log: log}
	ticker := time.NewTicker(idle)
	defer ticker.Stop()
	go func() {
		for range ticker.C {
			lines.flushOld()
		}
	}()
	buffer := make([]byte, 256<<10)
	for {
		n, err := output.Read(buffer)
		said := secrets.feed(buffer[:n])
		if err != nil {
			said = append(bytes.Clone(said), secrets.end()...)
		}
		if len(said) > 0 {
			os.Stdout.Write(said)
			lines.feed(said)
		}
		if err != nil {
			lines.flush()
			return
		}
	}
}

// stamper writes `<milliseconds> O <text>` lines, and holds back at most one unfinished line.
type stamper struct {
	mutex sync.Mutex
	log   io.Writer
	rest  []byte
	fed   time.Time
}

func (s *stamper) feed(data []byte) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.fed = time.Now()
	s.rest = append(s.rest, data...)
	cut := bytes.LastIndexByte(s.rest, '\n')
	if cut < 0 {
		if len(s.rest) > longest {
			s.write(s.rest)
			s.rest = nil
		}
		return
	}
	whole := s.rest[:cut]
	s.rest = append([]byte(nil), s.rest[cut+1:]...)
	s.write(whole)
}

func (s *stamper) flush() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if len(s.rest) > 0 {
		s.write(s.rest)
		s.rest = nil
	}
}

func (s *stamper) flushOld() {
	s.mutex.Lock()
	old := len(s.rest) > 0 && time.Since(s.fed) >= idle
	s.mutex.Unlock()
	if old {
		s.flush()
	}
}

func (s *stamper) write(lines []byte) {
	stamp := []byte(strconv.FormatInt(time.Now().UnixMilli(), 10) + " O ")
	out := make([]byte, 0, len(lines)+2*len(stamp))
	for _, line := range bytes.Split(lines, []byte{'\n'}) {
		out = append(append(append(out, stamp...), line...), '\n')
	}
	s.log.Write(out)
}

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
)

var mask = []byte("[MASKED]")

// masker takes secrets out of a stream. It holds back at its end what could be the beginning of one, until the next
// bytes or the end tell. The forms in which they are looked for, longest first, are worked out by whoever knows them.
type masker struct {
	forms   [][]byte
	longest int
	first   [256]bool
	held    []byte
}

// masking reads the forms from a file, a JSON list of base64 texts; no file, no secrets.
func masking(path string) (*masker, error) {
	made := &masker{}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return made, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &made.forms)
	}
	for _, one := range made.forms {
		made.first[one[0]] = true
		made.longest = max(made.longest, len(one))
	}
	return made, err
}

// feed gives what may go on of all that came so far.
func (m *masker) feed(data []byte) []byte {
	if m.longest == 0 {
		return data
	}
	all := append(m.held, data...)
	done, at := m.masked(all, m.open(all))
	m.held = bytes.Clone(all[at:])
	return done
}

// end gives the last part.
func (m *masker) end() []byte {
	done, _ := m.masked(m.held, len(m.held))
	m.held = nil
	return done
}

// open says where the first secret may begin that is not whole yet.
func (m *masker) open(data []byte) int {
	for at := max(len(data)-m.longest+1, 0); at < len(data); at++ {
		if !m.first[data[at]] {
			continue
		}
		for _, one := range m.forms {
			if len(one) > len(data)-at && bytes.HasPrefix(one, data[at:]) {
				return at
			}
		}
	}
	return len(data)
}

// masked gives the text of what begins before `certain`, and where the rest begins.
func (m *masker) masked(data []byte, certain int) ([]byte, int) {
	var out []byte
	at := 0
	for at < certain {
		if found := m.at(data[at:]); found > 0 {
			out = append(out, mask...)
			at += found
		} else {
			out = append(out, data[at])
			at++
		}
	}
	return out, at
}

func (m *masker) at(data []byte) int {
	if !m.first[data[0]] {
		return 0
	}
	for _, one := range m.forms {
		if bytes.HasPrefix(data, one) {
			return len(one)
		}
	}
	return 0
}

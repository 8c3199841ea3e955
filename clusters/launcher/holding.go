package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// kept stays until the files of the ended command are where they are to be; false when a signal ended that.
func kept(folder string, end ending, signals <-chan os.Signal) bool {
	if err := leave(folder, "ended", end); err != nil {
		fmt.Fprintln(os.Stderr, "osmo-launcher: the last checkpoint is missed:", err)
		return true
	}
	word := filepath.Join(folder, "kept")
	defer os.Remove(word)
	return await(signals, 0, word)
}

// hold stays with a failed command for that many seconds; true when the word comes to run it again.
func hold(folder string, limit float64, end ending, signals <-chan os.Signal) bool {
	held, again := filepath.Join(folder, "held"), filepath.Join(folder, "rerun")
	os.Remove(again)
	if err := leave(folder, "held", end); err != nil {
		fmt.Fprintln(os.Stderr, "osmo-launcher: nothing is held:", err)
		return false
	}
	defer os.Remove(held)
	if !await(signals, time.Duration(limit*float64(time.Second)), filepath.Join(folder, "release"), again) {
		return false
	}
	return os.Remove(again) == nil
}

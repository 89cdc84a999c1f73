package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/logging"
)

// ByVerdict splits an access log into three files in a folder, by the verdict at the end of a line:
//
//	FOLDER [MEGABYTES]
//
// devices.log has what enrolled devices did, offences.log what bans are based on, access.log everything else. So no stranger
// can push a device's history out of its file, and no flood of ordinary requests keeps fail2ban from reading about an offence.
// Each file is rotated at this many megabytes [10]; five old ones are kept.
type ByVerdict struct {
	Folder    string `json:"folder"`
	Megabytes int    `json:"megabytes,omitempty"`
}

const (
	usualMegabytes = 10
	oldFiles       = 5
)

func parseByVerdict(values []string) (ByVerdict, error) {
	parsed := ByVerdict{Folder: values[0]}
	for _, size := range values[1:] {
		megabytes, err := strconv.Atoi(size)
		if err != nil || megabytes < 1 || parsed.Megabytes != 0 {
			return parsed, fmt.Errorf("the size of a log must be a number of megabytes, not %q", size)
		}
		parsed.Megabytes = megabytes
	}
	return parsed, nil
}

// Key identifies a log; one whose key stays the same survives a reload.
func (b ByVerdict) Key() string { return fmt.Sprintf("%s %d", b.Folder, b.Megabytes) }

// Open opens the three files.
func (b ByVerdict) Open() (*verdictFiles, error) {
	files := &verdictFiles{}
	for place, name := range []string{"access.log", "devices.log", "offences.log"} {
		opened, err := logging.FileWriter{
			Filename: filepath.Join(b.Folder, name), Mode: 0o640, RollSizeMB: cmp.Or(b.Megabytes, usualMegabytes),
			RollKeep: oldFiles,
		}.OpenWriter()
		if err != nil {
			return nil, errors.Join(err, files.Destruct())
		}
		files[place] = opened
		if name != "offences.log" {
			files[place] = &lateWriter{to: opened}
		}
	}
	return files, nil
}

// verdictFiles are access.log, devices.log and offences.log.
type verdictFiles [3]io.WriteCloser

// lateWriter writes complete lines, several at a time, at most a tenth of a second after the first of them, because a system
// call per line costs more than the line. It is for lines that nothing waits for; lines that bans are based on are written at
// once.
type lateWriter struct {
	to      io.WriteCloser
	mutex   sync.Mutex
	held    []byte
	problem error // of a write in the background
}

const (
	lateBytes = 32 << 10
	lateTime  = 100 * time.Millisecond
)

func (l *lateWriter) Write(line []byte) (int, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if len(l.held)+len(line) > lateBytes {
		l.flush()
	}
	if len(l.held) == 0 {
		time.AfterFunc(lateTime, l.flushLater)
	}
	l.held = append(l.held, line...)
	problem := l.problem
	l.problem = nil
	return len(line), problem
}

func (l *lateWriter) flushLater() {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.flush()
}

func (l *lateWriter) flush() {
	if len(l.held) == 0 {
		return
	}
	if _, err := l.to.Write(l.held); err != nil {
		l.problem = err
	}
	l.held = l.held[:0]
}

func (l *lateWriter) Close() error {
	l.flushLater()
	return l.to.Close()
}

var (
	deviceLine   = lineEnd(verdictDevice)
	offenceLines = [][]byte{lineEnd(verdictScan), lineEnd(verdictGuess), lineEnd(verdictPassword), lineEnd(verdictSecret)}
)

// lineEnd is how a line with this verdict ends. No client can forge it: quotes in a client's text are escaped.
func lineEnd(verdict string) []byte {
	return []byte(`"verdict":"` + verdict + "\"}\n")
}

// Write writes one line.
func (f *verdictFiles) Write(line []byte) (int, error) {
	ends := func(end []byte) bool { return bytes.HasSuffix(line, end) }
	switch {
	case ends(deviceLine):
		return f[1].Write(line)
	case slices.ContainsFunc(offenceLines, ends):
		return f[2].Write(line)
	}
	return f[0].Write(line)
}

// Destruct closes all three.
func (f *verdictFiles) Destruct() error {
	var problems []error
	for _, file := range f {
		if file != nil {
			problems = append(problems, file.Close())
		}
	}
	return errors.Join(problems...)
}

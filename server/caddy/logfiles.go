package main

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/logging"
)

func init() {
	caddy.RegisterModule(&ByVerdict{})
}

// ByVerdict writes an access log into three files of a folder, by the verdict at the end of a line:
//
//	output by_verdict FOLDER [MEGABYTES]
//
// devices.log has what enrolled devices did, offences.log what bans are made of, access.log all else. So no stranger can
// push a device's history out of its file, and no flood of ordinary requests keeps fail2ban from reading of an offence.
// Each file is rotated when it has so many megabytes [10]; five old ones are kept.
type ByVerdict struct {
	Folder    string `json:"folder"`
	Megabytes int    `json:"megabytes,omitempty"`
}

const (
	usualMegabytes = 10
	oldFiles       = 5
)

// CaddyModule returns the Caddy module information.
func (*ByVerdict) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.writers.by_verdict", New: func() caddy.Module { return new(ByVerdict) }}
}

// UnmarshalCaddyfile reads the folder and the size.
func (b *ByVerdict) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.Args(&b.Folder) {
		return d.ArgErr()
	}
	for _, size := range d.RemainingArgs() {
		parsed, err := strconv.Atoi(size)
		if err != nil || parsed < 1 || b.Megabytes != 0 {
			return d.Errf("the size of a log must be a number of megabytes, not %q", size)
		}
		b.Megabytes = parsed
	}
	return nil
}

// String names the folder.
func (b *ByVerdict) String() string { return b.Folder }

// WriterKey tells one writer from another; one that stays the same outlives a reload.
func (b *ByVerdict) WriterKey() string { return "by_verdict:" + b.Folder }

// OpenWriter opens the three files.
func (b *ByVerdict) OpenWriter() (io.WriteCloser, error) {
	files := &verdictFiles{}
	for place, name := range []string{"access.log", "devices.log", "offences.log"} {
		opened, err := logging.FileWriter{
			Filename: filepath.Join(b.Folder, name), Mode: 0o640, RollSizeMB: cmp.Or(b.Megabytes, usualMegabytes),
			RollKeep: oldFiles,
		}.OpenWriter()
		if err != nil {
			return nil, errors.Join(err, files.Close())
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

// lateWriter writes whole lines, some at a time, a tenth of a second after the first of them at the latest: a call of the
// system for each costs more than the line. Nobody waits for these; what bans are made of is written at once.
type lateWriter struct {
	to      io.WriteCloser
	mutex   sync.Mutex
	held    []byte
	problem error // of a write that nobody waited for
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

// lineEnd is how the line of a verdict ends. No client can write it: quotes in what they say are escaped.
func lineEnd(verdict string) []byte {
	return []byte(`"verdict":"` + verdict + "\"}\n")
}

// Write writes one line, and nothing of a line that was left out.
func (f *verdictFiles) Write(line []byte) (int, error) {
	ends := func(end []byte) bool { return bytes.HasSuffix(line, end) }
	switch {
	case len(line) == 0:
		return 0, nil
	case ends(deviceLine):
		return f[1].Write(line)
	case slices.ContainsFunc(offenceLines, ends):
		return f[2].Write(line)
	}
	return f[0].Write(line)
}

// Close closes all three.
func (f *verdictFiles) Close() error {
	var problems []error
	for _, file := range f {
		if file != nil {
			problems = append(problems, file.Close())
		}
	}
	return errors.Join(problems...)
}

var (
	_ caddy.WriterOpener    = (*ByVerdict)(nil)
	_ caddyfile.Unmarshaler = (*ByVerdict)(nil)
)

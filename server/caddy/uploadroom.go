package main

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// roomOnDisk is how much is free where Immich puts uploads. The edge cannot see that place, nor should it: root looks there
// every minute (server/scripts/room.sh) and writes the number of KiB into a file. What the edge has let through since the look
// before the one that found the file counts as used: it may have come after root looked.
type roomOnDisk struct {
	mutex   sync.Mutex
	looked  time.Time // at the file
	file    string
	written time.Time // the file
	free    int64     // bytes
	known   bool
	since   int64 // bytes that were let through and may not be in the number
	lately  int64 // of these, since the last look at the file
}

const (
	// roomLookEvery is how often the file is looked at, at most.
	roomLookEvery = 2 * time.Second

	// roomIsOld: whoever writes the file has died, or the clock was put.
	roomIsOld = 3 * time.Minute

	// mostOfRoomFile is more digits than a disk has.
	mostOfRoomFile = 32
)

// roomForUploads outlives the reload of a configuration.
var roomForUploads roomOnDisk

// has tells whether so many bytes more leave the floor free; `known` says that the answer is one.
func (r *roomOnDisk) has(file string, more, floor int64, now time.Time) (enough, known bool) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if file != r.file || now.Sub(r.looked) >= roomLookEvery || now.Before(r.looked) {
		r.look(file, now)
	}
	age := now.Sub(r.written)
	known = r.known && age <= roomIsOld && age >= -roomIsOld
	return known && r.free-r.since-more >= floor, known
}

// let counts what goes on to Immich.
func (r *roomOnDisk) let(bytes int64) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.since += bytes
	r.lately += bytes
}

func (r *roomOnDisk) look(file string, now time.Time) {
	written, known, lately := r.written, r.known, r.lately
	r.file, r.looked, r.known, r.lately = file, now, false, 0
	info, err := os.Stat(file)
	if err != nil || !info.Mode().IsRegular() || info.Size() > mostOfRoomFile {
		return
	}
	if known && info.ModTime().Equal(written) {
		r.known = true
		return
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return
	}
	kibibytes, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil || kibibytes < 0 || kibibytes > 1<<52 {
		return
	}
	r.free, r.written, r.since, r.known = kibibytes<<10, info.ModTime(), lately, true
}

package main

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// roomOnDisk is how much space is free where Immich puts uploads. The edge cannot see that place, nor should it: root measures
// it every minute (server/scripts/room.sh) and writes the number of KiB to a file, whose modification time is when the measurement
// began. What the edge has let through since then counts as used.
type roomOnDisk struct {
	mutex   sync.Mutex
	looked  time.Time // when the file was last looked at
	file    string
	written time.Time // the file's modification time
	free    int64     // in bytes
	known   bool
	since   int64 // bytes that were let through and may not be in the number yet
	lately  int64 // of these, since the last look at the file
	earlier []letThrough
}

// letThrough is how many bytes were let through between two looks at the file.
type letThrough struct {
	until time.Time // the second look
	bytes int64
}

const (
	// roomLookEvery is the shortest interval between two looks at the file.
	roomLookEvery = 2 * time.Second

	// roomIsOld is the age from which the file does not count: its writer has died, or the clock was changed.
	roomIsOld = 3 * time.Minute

	// mostOfRoomFile is more digits than the size of any disk has.
	mostOfRoomFile = 32
)

// roomForUploads survives a configuration reload.
var roomForUploads roomOnDisk

// has reports whether this many more bytes leave the floor free; `known` is false if the free space is not known.
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

// let counts bytes that go on to Immich.
func (r *roomOnDisk) let(bytes int64) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.since += bytes
	r.lately += bytes
}

func (r *roomOnDisk) look(file string, now time.Time) {
	written, known := r.written, r.known
	r.earlier = append(r.earlier, letThrough{now, r.lately})
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
	r.free, r.written, r.since, r.known = kibibytes<<10, info.ModTime(), 0, true
	r.earlier = slices.DeleteFunc(r.earlier, func(each letThrough) bool { return each.until.Before(r.written) })
	for _, each := range r.earlier {
		r.since += each.bytes
	}
}

package main

import (
	"sync"
	"time"
)

// UploadLimit is how much may be uploaded within any hour.
type UploadLimit struct {
	Bytes int64 `json:"bytes"`
	Files int64 `json:"files"`
}

const (
	// An hour is counted in slots: the slots of the last hour and the one that began before it, so that no hour ever exceeds
	// the limit. (A bucket that refills would let through twice as much in its first hour.)
	slotSpan  = 5 * time.Minute
	slotCount = int64(time.Hour/slotSpan) + 1

	// This many links have a count of their own, at 300 bytes each; all others share one. Only links that take uploads are
	// counted.
	mostCountedLinks = 10_000
)

// tally counts what was uploaded within the last hour, and what has been admitted and is still to come.
type tally struct {
	slots    [slotCount]UploadLimit
	slot     int64 // the slot being filled, counted since 1970
	coming   UploadLimit
	underWay int64 // uploads
}

// turn advances to the present and forgets what is older than an hour.
func (t *tally) turn(now time.Time) {
	slot := now.UnixNano() / int64(slotSpan)
	if slot-t.slot >= slotCount || slot < t.slot-1 { // the second case: a clock that was set back
		t.slots, t.slot = [slotCount]UploadLimit{}, slot
	}
	for t.slot < slot {
		t.slot++
		t.slots[t.slot%slotCount] = UploadLimit{}
	}
}

// used returns what was uploaded within the last hour.
func (t *tally) used() (sum UploadLimit) {
	for _, slot := range t.slots {
		sum.Bytes += slot.Bytes
		sum.Files += slot.Files
	}
	return sum
}

// wait returns how long until the limit has room for this much more: zero if it has now, and an hour if that cannot be known
// because others are still sending.
func (t *tally) wait(more, limit UploadLimit, now time.Time) time.Duration {
	used := t.used()
	bytes := used.Bytes + t.coming.Bytes + more.Bytes - limit.Bytes
	files := used.Files + t.coming.Files + more.Files - limit.Files
	for oldest := t.slot + 1; oldest <= t.slot+slotCount && (bytes > 0 || files > 0); oldest++ {
		slot := t.slots[oldest%slotCount]
		bytes, files = bytes-slot.Bytes, files-slot.Files
		if bytes <= 0 && files <= 0 {
			return time.Unix(0, oldest*int64(slotSpan)).Sub(now)
		}
	}
	if bytes > 0 || files > 0 {
		return time.Hour
	}
	return 0
}

// room returns how many more bytes the limit allows.
func (t *tally) room(limit UploadLimit) int64 { return limit.Bytes - t.used().Bytes - t.coming.Bytes }

func (t *tally) add(bytes, files int64) {
	t.slots[t.slot%slotCount].Bytes += bytes
	t.slots[t.slot%slotCount].Files += files
}

func (t *tally) isIdle() bool { return t.underWay == 0 && t.used() == UploadLimit{} }

// uploadCounts holds a count for each link, by a hash of Immich's own id of it, and one for all links together.
type uploadCounts struct {
	mutex sync.Mutex
	all   tally
	links map[uint64]*tally
	rest  tally
	swept int64
}

// uploads survives a configuration reload.
var uploads uploadCounts

// upload is an admitted upload. The bytes that it has announced are reserved for it.
type upload struct {
	counts    *uploadCounts
	link      *tally
	ofLink    UploadLimit
	ofAll     UploadLimit
	announced int64
	begun     bool
	over      bool
}

// admit admits an upload that has announced this many bytes (zero if unknown). Otherwise it returns how long until there is
// room, and whether it was the link's own limit that was reached.
func (c *uploadCounts) admit(link uint64, announced int64, ofLink, ofAll UploadLimit, now time.Time) (*upload, time.Duration, bool) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.all.turn(now)
	of := c.of(link, now)
	more := UploadLimit{max(announced, 1), 1}
	wait, whole := of.wait(more, ofLink, now), c.all.wait(more, ofAll, now)
	if wait > 0 || whole > 0 {
		return nil, max(wait, whole), wait > 0
	}
	for _, each := range []*tally{of, &c.all} {
		each.coming.Bytes += announced
		each.coming.Files++
		each.underWay++
	}
	return &upload{counts: c, link: of, ofLink: ofLink, ofAll: ofAll, announced: announced}, 0, false
}

// of returns the count of a link; beyond mostCountedLinks, links share one.
func (c *uploadCounts) of(link uint64, now time.Time) *tally {
	of := c.links[link]
	if of == nil && len(c.links) >= mostCountedLinks && now.UnixNano()-c.swept > sweepEvery {
		c.swept = now.UnixNano()
		for each, tally := range c.links {
			if tally.turn(now); tally.isIdle() {
				delete(c.links, each)
			}
		}
	}
	switch {
	case of != nil:
	case len(c.links) >= mostCountedLinks:
		of = &c.rest
	default:
		if c.links == nil {
			c.links = map[uint64]*tally{}
		}
		of = new(tally)
		c.links[link] = of
	}
	of.turn(now)
	return of
}

// take counts bytes that have arrived, and reports whether they may go on. If not all of them have room, none may, and they use
// up the remaining room: a client that keeps sending then reaches the limit before Immich hears from it.
func (u *upload) take(bytes int64, now time.Time) bool {
	u.counts.mutex.Lock()
	defer u.counts.mutex.Unlock()
	if u.over {
		return false
	}
	kept := min(bytes, u.announced)
	for _, each := range u.both() {
		each.turn(now)
	}
	room := kept + max(0, min(u.link.room(u.ofLink), u.counts.all.room(u.ofAll)))
	counted := min(bytes, room)
	u.announced -= kept
	for _, each := range u.both() {
		each.coming.Bytes -= kept
		each.add(counted, 0)
	}
	return counted == bytes
}

// begin counts the file, once.
func (u *upload) begin(now time.Time) {
	u.counts.mutex.Lock()
	defer u.counts.mutex.Unlock()
	if u.over || u.begun {
		return
	}
	u.begun = true
	for _, each := range u.both() {
		each.turn(now)
		each.coming.Files--
		each.add(0, 1)
	}
}

// end releases what was reserved.
func (u *upload) end() {
	u.counts.mutex.Lock()
	defer u.counts.mutex.Unlock()
	if u.over {
		return
	}
	u.over = true
	for _, each := range u.both() {
		each.coming.Bytes -= u.announced
		if !u.begun {
			each.coming.Files--
		}
		each.underWay--
	}
}

func (u *upload) both() [2]*tally { return [2]*tally{u.link, &u.counts.all} }

// lately returns what was uploaded within the last hour, and what admitted uploads have still to send.
func (c *uploadCounts) lately(now time.Time) (used, coming UploadLimit) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.all.turn(now)
	return c.all.used(), c.all.coming
}

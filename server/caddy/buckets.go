package main

import (
	"sync"
	"time"
)

// buckets are token buckets for many keys. Each is one number: the moment at which it is full again (the generic cell rate
// algorithm of ITU-T I.371, a token bucket that needs no timer).
//
// At most `most` keys are held. Beyond that, keys with a full bucket are forgotten first, and then new keys share the buckets
// of `shared` groups. So a flood of keys exhausts its own budget, and memory stays bounded.
type buckets struct {
	mutex  sync.Mutex
	full   map[uint64]int64
	shared [sharedBuckets]int64
	swept  int64
}

const (
	// A key takes 16 bytes, and about 40 as a map entry.
	mostKeys      = 100_000
	sharedBuckets = 1024
	sweepEvery    = int64(time.Second)
)

// rate is the capacity of a bucket and the time in which it fills.
type rate struct {
	size   float64
	window time.Duration
}

// per returns how long the given number of tokens takes to come back, in nanoseconds.
func (r rate) per(tokens float64) int64 {
	return int64(tokens * float64(r.window) / r.size)
}

// take takes tokens from the key's bucket, all or none. It returns zero if it has taken them, and otherwise how long until they
// are there.
func (b *buckets) take(key uint64, tokens float64, limit rate, now time.Time) time.Duration {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	moment := now.UnixNano()
	full, place := b.look(key, moment)
	next := max(full, moment) + limit.per(tokens)
	if wait := next - moment - int64(limit.window); wait > 0 {
		return time.Duration(wait)
	}
	b.put(key, place, next)
	return 0
}

// spend takes tokens even if there are too few, down to an empty bucket.
func (b *buckets) spend(key uint64, tokens float64, limit rate, now time.Time) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	moment := now.UnixNano()
	full, place := b.look(key, moment)
	b.put(key, place, min(max(full, moment)+limit.per(tokens), moment+int64(limit.window)))
}

// reserve takes tokens that may not be there yet, and returns how long to wait for them. If that is longer than `longest`, it
// takes none and returns false.
func (b *buckets) reserve(key uint64, tokens float64, limit rate, longest time.Duration, now time.Time) (time.Duration, bool) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	moment := now.UnixNano()
	full, place := b.look(key, moment)
	next := max(full, moment) + limit.per(tokens)
	wait := time.Duration(max(0, next-moment-int64(limit.window)))
	if wait > longest {
		return wait, false
	}
	b.put(key, place, next)
	return wait, true
}

// wait returns how long until the tokens are there, and takes none.
func (b *buckets) wait(key uint64, tokens float64, limit rate, now time.Time) time.Duration {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	moment := now.UnixNano()
	full, _ := b.look(key, moment)
	return time.Duration(max(0, max(full, moment)+limit.per(tokens)-moment-int64(limit.window)))
}

// isEmpty reports whether no token was ever taken.
func (b *buckets) isEmpty() bool {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return len(b.full) == 0
}

// look returns when the key's bucket is full, and the index of the shared bucket it uses, or -1 for one of its own.
func (b *buckets) look(key uint64, moment int64) (full int64, place int) {
	if full, known := b.full[key]; known {
		return full, -1
	}
	if len(b.full) >= mostKeys && moment-b.swept > sweepEvery {
		b.swept = moment
		for each, full := range b.full {
			if full <= moment {
				delete(b.full, each)
			}
		}
	}
	if len(b.full) >= mostKeys {
		place = int(key % sharedBuckets)
		return b.shared[place], place
	}
	return 0, -1
}

func (b *buckets) put(key uint64, place int, full int64) {
	if place >= 0 {
		b.shared[place] = full
		return
	}
	if b.full == nil {
		b.full = map[uint64]int64{}
	}
	b.full[key] = full
}

package main

import (
	"sync"
	"time"
)

// buckets are token buckets of many keys, one number each: the moment at which the key's bucket is full again. (The
// generic cell rate algorithm, ITU-T I.371, which is a token bucket that needs no timer.)
//
// At most `most` keys are held. Beyond that, after those whose bucket is full have been forgotten, new keys share the
// buckets of `shared` groups: a flood of keys becomes dear to itself, and memory has a bound.
type buckets struct {
	mutex  sync.Mutex
	full   map[uint64]int64
	shared [sharedBuckets]int64
	swept  int64
}

const (
	// A key takes 16 bytes, and a map of them about 40 in all.
	mostKeys      = 100_000
	sharedBuckets = 1024
	sweepEvery    = int64(time.Second)
)

// rate is what one bucket holds, and in which time it fills.
type rate struct {
	size   float64
	window time.Duration
}

// per returns what one of the bucket's tokens takes to come back, in nanoseconds.
func (r rate) per(tokens float64) int64 {
	return int64(tokens * float64(r.window) / r.size)
}

// take takes so many tokens out of the key's bucket, all or none, and returns how long it takes until they are there:
// zero when they have been taken.
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

// spend takes tokens out even if there are not as many, down to an empty bucket.
func (b *buckets) spend(key uint64, tokens float64, limit rate, now time.Time) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	moment := now.UnixNano()
	full, place := b.look(key, moment)
	b.put(key, place, min(max(full, moment)+limit.per(tokens), moment+int64(limit.window)))
}

// reserve takes tokens out that may not be there yet, and returns how long to wait for them; false if that is longer than
// `longest`, and then it has taken none.
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

// wait returns how long it takes until so many tokens are there, and takes none.
func (b *buckets) wait(key uint64, tokens float64, limit rate, now time.Time) time.Duration {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	moment := now.UnixNano()
	full, _ := b.look(key, moment)
	return time.Duration(max(0, max(full, moment)+limit.per(tokens)-moment-int64(limit.window)))
}

// isEmpty tells whether nothing was ever taken.
func (b *buckets) isEmpty() bool {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return len(b.full) == 0
}

// look returns when the key's bucket is full, and its place among the shared ones; -1 is a place of its own.
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

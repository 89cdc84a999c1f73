package main

import (
	"fmt"
	"runtime"
	"testing"
	"time"
)

func TestABucketEmptiesAndFills(t *testing.T) {
	var b buckets
	limit, now := rate{10, time.Minute}, time.Now()
	for range 10 {
		if b.take(1, 1, limit, now) != 0 {
			t.Fatal("refused before the bucket is empty")
		}
	}
	if wait := b.take(1, 1, limit, now); wait != 6*time.Second {
		t.Errorf("an empty bucket asks to wait %v", wait)
	}
	if b.take(2, 1, limit, now) != 0 {
		t.Error("somebody else's bucket is not full")
	}
	later := now.Add(6 * time.Second)
	if b.wait(1, 1, limit, later) != 0 || b.take(1, 1, limit, later) != 0 || b.take(1, 1, limit, later) == 0 {
		t.Error("after a tenth of the window there is one token, and one alone")
	}
	if b.take(3, 11, limit, now) == 0 {
		t.Error("more than the bucket holds was taken")
	}
	for range 100 {
		b.spend(4, 1, limit, now)
	}
	if wait := b.wait(4, 1, limit, now); wait != 6*time.Second {
		t.Errorf("what is spent beyond the bucket is not remembered, yet it asks to wait %v", wait)
	}
}

// An address costs tens of bytes, and a flood of them stays within a limit.
func TestManyKeysTakeLittleMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var b buckets
	limit, now := rate{10, time.Hour}, time.Now()
	for key := range uint64(5 * mostKeys) {
		b.take(key*0x9e3779b97f4a7c15, 1, limit, now)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if held := after.HeapAlloc - before.HeapAlloc; held > 8<<20 {
		t.Errorf("%d keys take %d bytes", 5*mostKeys, held)
	}
	if len(b.full) > mostKeys {
		t.Errorf("%d keys are held", len(b.full))
	}
	// A new key in a full table shares a bucket that others may have emptied, and is free again when they go.
	if b.take(1<<63, 10, limit, now) == 0 {
		t.Error("a key beyond the bound has a bucket of its own")
	}
	if b.take(1<<63, 10, limit, now.Add(2*time.Hour)) != 0 {
		t.Error("full buckets are not forgotten")
	}
	runtime.KeepAlive(&b)
}

func TestNetworks(t *testing.T) {
	of := func(remote string, bits int) string {
		visitor, wide := networksOf(remote, bits)
		return fmt.Sprint(visitor, wide)
	}
	for _, row := range []struct {
		one, other string
		bits       int
		same       bool
	}{
		{"192.0.2.1:1", "192.0.2.1:2", 64, true},
		{"192.0.2.1:1", "[::ffff:192.0.2.1]:2", 64, true},
		{"192.0.2.1:1", "192.0.2.2:1", 64, false},
		{"[2001:db8:1:2::1]:1", "[2001:db8:1:2:ffff::9]:1", 64, true},
		{"[2001:db8:1:2::1]:1", "[2001:db8:1:3::1]:1", 64, false},
		{"[2001:db8:1:2::1]:1", "[2001:db8:1:2::2]:1", 128, false},
		{"[fe80::1%eth0]:1", "[fe80::1]:1", 128, true},
	} {
		if (of(row.one, row.bits) == of(row.other, row.bits)) != row.same {
			t.Errorf("%s and %s in %d bits: the same is not %v", row.one, row.other, row.bits, row.same)
		}
	}
	_, one := networksOf("[2001:db8:1:2::1]:1", 64)
	_, other := networksOf("[2001:db8:1:3::1]:1", 64)
	if one != other || widestOf("[2001:db8:1:9::1]:1") != one {
		t.Error("a /48 is not one network")
	}
}

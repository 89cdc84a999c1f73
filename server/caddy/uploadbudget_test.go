package main

import (
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	linkLimit = UploadLimit{1000, 10}
	allLimit  = UploadLimit{2500, 100}
	noon      = time.Unix(1_800_000_000, 0)
)

// send uploads bytes that were announced, or were not, and returns how many got through.
func send(counts *uploadCounts, link uint64, announced, bytes int64, now time.Time) int64 {
	admitted, _, _ := counts.admit(link, announced, linkLimit, allLimit, now)
	if admitted == nil {
		return 0
	}
	defer admitted.end()
	admitted.begin(now)
	for sent := range bytes {
		if !admitted.take(1, now) {
			return sent
		}
	}
	return bytes
}

func TestInNoHourMoreThanTheBudgetGetsThrough(t *testing.T) {
	var counts uploadCounts
	limit := UploadLimit{1000, 1 << 40}
	var through []int64 // by the minute
	for minute := range 300 {
		now := noon.Add(time.Duration(minute+4) * time.Minute) // the last minute of a slot
		var got int64
		if admitted, _, _ := counts.admit(1, 0, limit, limit, now); admitted != nil {
			for got < 400 && admitted.take(10, now) {
				got += 10
			}
			admitted.end()
		}
		through = append(through, got)
	}
	var all int64
	for first := range through {
		var hour int64
		for _, each := range through[first:min(first+60, len(through))] {
			hour += each
		}
		if hour > 1000 {
			t.Fatalf("%d bytes in the hour from minute %d on", hour, first)
		}
		all += through[first]
	}
	if all < 4000 {
		t.Errorf("only %d bytes in five hours", all)
	}
}

func TestEachLinkHasItsOwnBudgetAndAllHaveOne(t *testing.T) {
	var counts uploadCounts
	if got := send(&counts, 1, 0, 5000, noon); got != 1000 {
		t.Errorf("the first link: %d", got)
	}
	if got := send(&counts, 1, 0, 1, noon); got != 0 {
		t.Errorf("the first link again: %d", got)
	}
	if got := send(&counts, 2, 600, 600, noon); got != 600 {
		t.Errorf("the second link: %d", got)
	}
	if got := send(&counts, 3, 0, 1000, noon); got != 900 {
		t.Errorf("all together: %d", got)
	}
	if got := send(&counts, 4, 1, 1, noon.Add(30*time.Minute)); got != 0 {
		t.Errorf("nothing is left of all: %d", got)
	}
	if got := send(&counts, 1, 1000, 1000, noon.Add(66*time.Minute)); got != 1000 {
		t.Errorf("after an hour: %d", got)
	}
}

func TestFilesAreCountedAsTheyBegin(t *testing.T) {
	var counts uploadCounts
	for range 3 {
		if admitted, _, _ := counts.admit(1, 10, linkLimit, allLimit, noon); admitted == nil {
			t.Fatal("an upload that never begins counts no file")
		} else {
			admitted.end()
		}
	}
	for range 10 {
		if send(&counts, 1, 10, 10, noon) != 10 {
			t.Fatal("ten files have room")
		}
	}
	if _, wait, ofLink := counts.admit(1, 10, linkLimit, allLimit, noon); wait < 55*time.Minute || wait > 65*time.Minute || !ofLink {
		t.Errorf("the eleventh file waits %v", wait)
	}
	if used, coming := counts.lately(noon); used != (UploadLimit{100, 10}) || coming != (UploadLimit{}) {
		t.Errorf("used %v, coming %v", used, coming)
	}
}

func TestWhatWasAnnouncedIsKeptFreeAndGivenBack(t *testing.T) {
	var counts uploadCounts
	first, _, _ := counts.admit(1, 800, linkLimit, allLimit, noon)
	if second, wait, _ := counts.admit(1, 300, linkLimit, allLimit, noon); second != nil || wait != time.Hour {
		t.Errorf("the second has to wait %v", wait)
	}
	first.take(100, noon)
	first.end()
	first.end()
	if first.take(1, noon) {
		t.Error("an upload that is over gets nothing more through")
	}
	if got := send(&counts, 1, 900, 900, noon); got != 900 {
		t.Errorf("what did not come is free again: %d", got)
	}
}

func TestManyAtOnceDoNotGetBeyondTheBudget(t *testing.T) {
	var counts uploadCounts
	var through atomic.Int64
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() { through.Add(send(&counts, 1, 0, 500, noon)) })
	}
	all.Wait()
	if through.Load() != 1000 {
		t.Errorf("%d bytes", through.Load())
	}
}

func TestWhatFindsNoRoomUsesUpTheRest(t *testing.T) {
	var counts uploadCounts
	first, _, _ := counts.admit(1, 0, linkLimit, allLimit, noon)
	if first.take(1001, noon) {
		t.Error("more than the budget at once")
	}
	first.end()
	if second, _, _ := counts.admit(1, 0, linkLimit, allLimit, noon); second != nil {
		t.Error("nothing is left")
	}
	if used, _ := counts.lately(noon); used.Bytes != 1000 {
		t.Errorf("%d bytes", used.Bytes)
	}
}

func TestCountsOfLinksHaveABound(t *testing.T) {
	var counts uploadCounts
	for link := range uint64(mostCountedLinks) {
		counts.of(link, noon).add(0, 1)
	}
	over := counts.of(1<<40, noon)
	if len(counts.links) != mostCountedLinks || over != counts.of(1<<41, noon) {
		t.Error("links beyond the bound share one count")
	}
	counts.of(1<<40, noon.Add(2*time.Hour))
	if len(counts.links) != 1 {
		t.Errorf("%d links after they have rested", len(counts.links))
	}
}

func TestAClockThatIsPutBackShutsNobodyOut(t *testing.T) {
	var counts uploadCounts
	send(&counts, 1, 0, 5000, noon)
	if got := send(&counts, 1, 0, 10, noon.Add(-24*time.Hour)); got != 10 {
		t.Errorf("%d", got)
	}
}

func TestRoomIsWhatTheFileSaysLessWhatCameSince(t *testing.T) {
	path := filepath.Join(t.TempDir(), "free")
	var room roomOnDisk
	now := time.Now()
	write := func(text string, age time.Duration) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, now.Add(-age), now.Add(-age)); err != nil {
			t.Fatal(err)
		}
		now = now.Add(roomLookEvery)
	}
	want := func(what string, more int64, enough, known bool) {
		t.Helper()
		if a, b := room.has(path, more, 100<<10, now); a != enough || b != known {
			t.Errorf("%s: enough %v, known %v", what, a, b)
		}
	}
	want("no file", 0, false, false)
	write("200\n", 0)
	want("half is free", 100<<10, true, true)
	want("one byte too many", 100<<10+1, false, true)
	room.let(60 << 10)
	want("what came counts", 50<<10, false, true)
	want("and leaves the rest", 40<<10, true, true)
	write("300\n", time.Second)
	want("a new number, and what may have come after it", 140<<10, true, true)
	want("which has no more room", 140<<10+1, false, true)
	write("300\n", -time.Second)
	want("a newer number", 200<<10, true, true)
	room.let(60 << 10)
	now = now.Add(roomLookEvery)
	want("the same number", 200<<10, false, true)
	write("300\n", 3*roomLookEvery)
	want("a measurement that took long", 140<<10, true, true)
	want("does not have what came meanwhile", 140<<10+1, false, true)
	for _, text := range []string{"", "-1", "1e9", "99999999999999999999", "300 KiB", "300\nand much more text than a number has"} {
		write(text, 2*time.Second)
		want(text, 0, false, false)
	}
	write("300\n", roomIsOld+time.Minute)
	want("an old file", 0, false, false)
	write("300\n", -2*roomIsOld)
	want("a file of the future", 0, false, false)
	write("300\n", 3*time.Second)
	want("as it should be", 0, true, true)
	now = now.Add(roomIsOld)
	want("nobody writes any more", 0, false, false)
}

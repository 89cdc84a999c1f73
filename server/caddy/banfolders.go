package main

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// banFolders knows the names in a few folders. At each lookup it asks the kernel what has changed in them (inotify, which
// queues a change before the call that made it returns), so a ban applies from the next request on. That is one system call,
// where checking for each name would take eight.
//
// A folder that the kernel does not report on (no more watches, an unsupported file system, a folder that was moved or whose
// permissions have changed) is checked name by name for as long as that lasts.
type banFolders struct {
	mutex   sync.Mutex
	queue   int // of the kernel's events; -1: there is none
	folders []banFolder
	checked time.Time
	buffer  [4096]byte
}

type banFolder struct {
	path  string
	watch int // -1: not watched
	names map[string]struct{}
	seen  syscall.Stat_t
}

const (
	banNews = syscall.IN_CREATE | syscall.IN_DELETE | syscall.IN_MOVED_FROM | syscall.IN_MOVED_TO | syscall.IN_ATTRIB |
		syscall.IN_DELETE_SELF | syscall.IN_MOVE_SELF | syscall.IN_ONLYDIR

	// banCheck is how often to check that a path still leads to the watched folder.
	banCheck = time.Second

	// mayList is R_OK and X_OK of access(2).
	mayList = 5
)

// sharedFolders survive a configuration reload, and all sites share them.
var sharedFolders struct {
	mutex sync.Mutex
	known map[string]*banFolders
}

func foldersIn(root string, names []string) *banFolders {
	sharedFolders.mutex.Lock()
	defer sharedFolders.mutex.Unlock()
	key := root + "\x00" + strings.Join(names, "\x00")
	if found := sharedFolders.known[key]; found != nil {
		return found
	}
	made := newBanFolders(root, names)
	if sharedFolders.known == nil {
		sharedFolders.known = map[string]*banFolders{}
	}
	sharedFolders.known[key] = made
	return made
}

func newBanFolders(root string, names []string) *banFolders {
	made := &banFolders{queue: -1}
	for _, name := range names {
		made.folders = append(made.folders, banFolder{path: filepath.Join(root, name), watch: -1})
	}
	if queue, err := syscall.InotifyInit1(syscall.IN_NONBLOCK | syscall.IN_CLOEXEC); err == nil {
		made.queue = queue
	}
	return made
}

// has calls `enough` with the index of each folder that holds one of the names, and returns true as soon as that does. It
// returns an error if it cannot tell who is banned.
func (b *banFolders) has(names []string, enough func(place int) bool) (bool, error) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	b.readNews()
	if now := time.Now(); now.Sub(b.checked) > banCheck {
		b.checked = now
		b.check()
	}
	for place := range b.folders {
		found, err := b.folders[place].has(names)
		if err != nil || found && enough(place) {
			return err == nil, err
		}
	}
	return false, nil
}

func (f *banFolder) has(names []string) (bool, error) {
	if f.watch >= 0 {
		for _, name := range names {
			if _, found := f.names[name]; found {
				return true, nil
			}
		}
		return false, nil
	}
	return hasFile(f.path, names)
}

// check sets a watch on each path that has none, or that leads to another folder by now.
func (b *banFolders) check() {
	for place := range b.folders {
		folder := &b.folders[place]
		var now syscall.Stat_t
		same := syscall.Stat(folder.path, &now) == nil && now.Dev == folder.seen.Dev && now.Ino == folder.seen.Ino
		if folder.watch >= 0 && same {
			continue
		}
		b.forget(folder)
		if b.queue >= 0 {
			b.begin(folder)
		}
	}
}

// begin sets the watch first and reads the folder afterwards, so that no change in between is missed.
func (b *banFolders) begin(folder *banFolder) {
	watch, err := syscall.InotifyAddWatch(b.queue, folder.path, banNews)
	if err != nil {
		return
	}
	folder.watch, folder.names = watch, map[string]struct{}{}
	entries, err := os.ReadDir(folder.path)
	if err != nil || syscall.Access(folder.path, mayList) != nil || syscall.Stat(folder.path, &folder.seen) != nil {
		b.forget(folder)
		return
	}
	for _, entry := range entries {
		folder.names[entry.Name()] = struct{}{}
	}
}

func (b *banFolders) forget(folder *banFolder) {
	if folder.watch >= 0 {
		_, _ = syscall.InotifyRmWatch(b.queue, uint32(folder.watch))
	}
	folder.watch, folder.names = -1, nil
}

// readNews applies what has changed since the last lookup.
func (b *banFolders) readNews() {
	if b.queue < 0 {
		return
	}
	for {
		count, err := syscall.Read(b.queue, b.buffer[:])
		switch {
		case err == syscall.EAGAIN:
			return
		case err == syscall.EINTR:
		case err != nil || count < syscall.SizeofInotifyEvent:
			b.giveUp()
			return
		default:
			b.apply(b.buffer[:count])
		}
	}
}

// giveUp switches to checking each name.
func (b *banFolders) giveUp() {
	_ = syscall.Close(b.queue)
	b.queue = -1
	for place := range b.folders {
		b.folders[place].watch, b.folders[place].names = -1, nil
	}
}

func (b *banFolders) apply(news []byte) {
	for len(news) >= syscall.SizeofInotifyEvent {
		watch, mask := int(int32(binary.NativeEndian.Uint32(news))), binary.NativeEndian.Uint32(news[4:])
		end := syscall.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(news[12:]))
		name := strings.TrimRight(string(news[syscall.SizeofInotifyEvent:min(end, len(news))]), "\x00")
		news = news[min(end, len(news)):]
		for place := range b.folders {
			if folder := &b.folders[place]; folder.watch >= 0 && (folder.watch == watch || mask&syscall.IN_Q_OVERFLOW != 0) {
				b.applyTo(folder, mask, name)
			}
		}
	}
}

func (b *banFolders) applyTo(folder *banFolder, mask uint32, name string) {
	switch {
	case name != "" && mask&(syscall.IN_CREATE|syscall.IN_MOVED_TO) != 0:
		folder.names[name] = struct{}{}
	case name != "" && mask&(syscall.IN_DELETE|syscall.IN_MOVED_FROM) != 0:
		delete(folder.names, name)
	case name == "": // the folder itself, or lost events
		b.forget(folder)
	}
}

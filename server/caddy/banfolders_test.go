package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// The file of a ban is named alike wherever it is written: the table is also that of the scripts, fail2ban's action and Python.
func TestTheNamesOfBans(t *testing.T) {
	table, err := os.ReadFile("testdata/ban-names.txt")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(table)) {
		words := strings.Fields(line)
		if words[0] == "#" || words[1] == "-" {
			continue
		}
		rows++
		text, _ := strings.CutSuffix(words[0], "/64")
		if names := namesOf(netip.MustParseAddr(text)); !slices.Contains(names, words[1]) {
			t.Errorf("%s: %v lacks %s", words[0], names, words[1])
		}
	}
	if rows < 10 {
		t.Errorf("only %d rows", rows)
	}
}

// Every way to create or remove a file takes effect at the very next lookup, whether the kernel reports it or not.
func TestABanCountsAtTheNextLook(t *testing.T) {
	for _, told := range []bool{true, false} {
		root := t.TempDir()
		for _, name := range []string{"scan", "manual"} {
			if err := os.Mkdir(filepath.Join(root, name), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		folders := newBanFolders(root, []string{"scan", "manual"})
		if !told {
			folders.giveUp()
		}
		is := func(name string) bool {
			t.Helper()
			found, err := folders.has([]string{"other", name}, func(int) bool { return true })
			if err != nil {
				t.Error(err)
			}
			return found
		}
		ban := filepath.Join(root, "scan", "192.0.2.1")
		elsewhere := filepath.Join(root, "192.0.2.1")
		steps := []struct {
			what   string
			do     func() error
			banned bool
		}{
			{"nothing", func() error { return nil }, false},
			{"a file", func() error { return os.WriteFile(ban, nil, 0o600) }, true},
			{"its rights", func() error { return os.Chmod(ban, 0) }, true},
			{"removed", func() error { return os.Remove(ban) }, false},
			{"a folder", func() error { return os.Mkdir(ban, 0o700) }, true},
			{"moved away", func() error { return os.Rename(ban, elsewhere) }, false},
			{"moved in", func() error { return os.Rename(elsewhere, ban) }, true},
			{"removed again", func() error { return os.Remove(ban) }, false},
			{"a link to nothing", func() error { return os.Symlink("nothing", ban) }, true},
			{"the link moved over", func() error { return os.Rename(ban, filepath.Join(root, "manual", "192.0.2.1")) }, true},
			{"the other folder emptied", func() error { return os.Remove(filepath.Join(root, "manual", "192.0.2.1")) }, false},
		}
		for _, step := range steps {
			if err := step.do(); err != nil {
				t.Fatal(err)
			}
			if is("192.0.2.1") != step.banned {
				t.Errorf("%s (told: %v): banned is %v", step.what, told, !step.banned)
			}
			if watched := folders.folders[0].watch >= 0; watched != told {
				t.Fatalf("%s: the kernel tells: %v", step.what, watched)
			}
		}
	}
}

func TestAFolderThatIsGoneIsAnError(t *testing.T) {
	root := t.TempDir()
	folder := filepath.Join(root, "scan")
	look := func(folders *banFolders) (bool, error) {
		return folders.has([]string{"192.0.2.1"}, func(int) bool { return true })
	}
	for what, remove := range map[string]func() error{
		"removed": func() error { return os.Remove(folder) },
		"moved":   func() error { return os.Rename(folder, filepath.Join(root, fmt.Sprint(time.Now().UnixNano()))) },
	} {
		if err := os.Mkdir(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		folders := newBanFolders(root, []string{"scan"})
		if _, err := look(folders); err != nil {
			t.Fatal(err)
		}
		if err := remove(); err != nil {
			t.Fatal(err)
		}
		if _, err := look(folders); err == nil {
			t.Errorf("%s: no error", what)
		}
		if err := os.Mkdir(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, "192.0.2.1"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, age := range []time.Duration{0, 2 * banCheck} { // checked name by name at first, watched again then
			folders.checked = folders.checked.Add(-age)
			if found, err := look(folders); err != nil || !found {
				t.Errorf("%s, and another is there: %v, %v", what, found, err)
			}
		}
		if folders.folders[0].watch < 0 {
			t.Errorf("%s: the new folder is not watched", what)
		}
		if err := os.RemoveAll(folder); err != nil {
			t.Fatal(err)
		}
	}
}

// Replacing a parent does not change the watched folder; the path is checked every second.
func TestAnotherFolderUnderTheSamePath(t *testing.T) {
	root := t.TempDir()
	parent := filepath.Join(root, "bans")
	make := func(in string) {
		if err := os.MkdirAll(filepath.Join(in, "scan"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	make(parent)
	folders := newBanFolders(parent, []string{"scan"})
	look := func() bool {
		found, err := folders.has([]string{"x"}, func(int) bool { return true })
		return found && err == nil
	}
	look()
	if err := os.Rename(parent, parent+"-old"); err != nil {
		t.Fatal(err)
	}
	make(parent)
	if err := os.WriteFile(filepath.Join(parent, "scan", "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	folders.checked = folders.checked.Add(-2 * banCheck)
	if !look() {
		t.Error("the old folder counts")
	}
}

// More events than the kernel's queue holds.
func TestManyBansAtOnce(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "scan"), 0o755); err != nil {
		t.Fatal(err)
	}
	folders := newBanFolders(root, []string{"scan"})
	is := func(name string) bool {
		found, err := folders.has([]string{name}, func(int) bool { return true })
		return found && err == nil
	}
	is("")
	var group sync.WaitGroup
	for worker := range 4 {
		group.Go(func() {
			for number := range 5_000 {
				path := filepath.Join(root, "scan", fmt.Sprintf("%d-%d", worker, number))
				_ = os.WriteFile(path, nil, 0o600)
				if number%2 == 0 {
					_ = os.Remove(path)
				}
			}
		})
	}
	group.Wait()
	for _, age := range []time.Duration{0, 2 * banCheck} {
		folders.checked = folders.checked.Add(-age)
		for number := range 5_000 {
			if is(fmt.Sprintf("3-%d", number)) != (number%2 == 1) {
				t.Fatalf("ban %d is wrong", number)
			}
		}
	}
}

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
)

const testBoundary = "----WebKitFormBoundaryAbC123"

func part(head, body string) string {
	return "--" + testBoundary + "\r\n" + head + "\r\n\r\n" + body + "\r\n"
}

func field(name, value string) string {
	return part(fmt.Sprintf(`Content-Disposition: form-data; name="%s"`, name), value)
}

func file(name, fileName, body string) string {
	head := fmt.Sprintf("Content-Disposition: form-data; name=%q; filename=\"%s\"\r\nContent-Type: image/jpeg", name, fileName)
	return part(head, body)
}

const formEnd = "--" + testBoundary + "--\r\n"

var onePhoto = file("assetData", "a.jpg", "photo")

// readForm reads a form as the edge does and returns what Immich would get.
func readForm(t *testing.T, body io.Reader) (string, int, error) {
	t.Helper()
	types, err := readUploadTypes(tablePath)
	if err != nil {
		t.Fatal(err)
	}
	began := 0
	got, err := io.ReadAll(newForm(body, testBoundary, types, func() { began++ }))
	return string(got), began, err
}

func TestWhatPagesSendGoesThroughByteForByte(t *testing.T) {
	long := strings.Repeat("\r\n--"+testBoundary[:20]+"\r", 2_000)
	for name, body := range map[string]string{
		"Immich 2": field("deviceAssetId", "web-a b.jpg-1") + field("deviceId", "WEB") + field("duration", "0:00:00.000000") +
			field("fileCreatedAt", "2026-01-01T00:00:00.000Z") + field("fileModifiedAt", "x") + field("isFavorite", "false") + onePhoto + formEnd,
		"Immich 3":               field("fileCreatedAt", "x") + field("fileModifiedAt", "x") + field("isFavorite", "false") + onePhoto + formEnd,
		"no last line end":       onePhoto + "--" + testBoundary + "--",
		"a file first":           onePhoto + field("isFavorite", "false") + formEnd,
		"an empty field":         field("duration", "") + onePhoto + formEnd,
		"an empty file":          file("assetData", "a.jpg", "") + formEnd,
		"a sidecar":              onePhoto + file("sidecarData", "a.jpg.xmp", "<x/>") + formEnd,
		"letters of others":      file("assetData", "Größe 東京 %22x%22 'a' (1);=,.JPG", "x") + formEnd,
		"no type":                part(`Content-Disposition: form-data; name="assetData"; filename="a.heic"`, "x") + formEnd,
		"nearly the delimiter":   file("assetData", "a.mp4", long) + formEnd,
		"line ends at the start": file("assetData", "a.mp4", "\r\n\r\n--\r\n") + formEnd,
	} {
		for reader, from := range map[string]io.Reader{
			"at once": strings.NewReader(body), "by the byte": iotest.OneByteReader(strings.NewReader(body)),
			"by halves": iotest.HalfReader(strings.NewReader(body)), "the end with the data": iotest.DataErrReader(strings.NewReader(body)),
		} {
			if got, began, err := readForm(t, from); err != nil || got != body || began != 1 {
				t.Errorf("%s, %s: %d bytes of %d, %d files: %v", name, reader, len(got), len(body), began, err)
			}
		}
	}
}

func TestWhatReadersCouldTakeInTwoWaysIsRefused(t *testing.T) {
	disposition := `Content-Disposition: form-data; name="assetData"`
	for name, each := range map[string]struct {
		body string
		want error
	}{
		"a program":                    {file("assetData", "a.exe", "MZ") + formEnd, errType},
		"a page":                       {file("assetData", "a.jpg.html", "x") + formEnd, errType},
		"an ending alone":              {file("assetData", ".jpg", "x") + formEnd, errType},
		"an ending and a blank":        {file("assetData", "a.jpg ", "x") + formEnd, errType},
		"no ending":                    {file("assetData", "jpg", "x") + formEnd, errType},
		"a photo as sidecar":           {file("sidecarData", "a.jpg", "x") + onePhoto + formEnd, errType},
		"a sidecar as photo":           {file("assetData", "a.xmp", "x") + formEnd, errType},
		"two photos":                   {onePhoto + onePhoto + formEnd, errForm},
		"a field twice":                {field("duration", "1") + field("duration", "2") + onePhoto + formEnd, errForm},
		"no photo":                     {field("duration", "1") + formEnd, errForm},
		"nothing":                      {"", errForm},
		"only the end":                 {formEnd, errForm},
		"a photo that is a field":      {field("assetData", "x") + formEnd, errForm},
		"a photo without a name":       {part(disposition+"\r\nContent-Type: application/octet-stream", "x") + formEnd, errForm},
		"an empty name":                {file("assetData", "", "x") + formEnd, errForm},
		"filename*":                    {part(disposition+`; filename="a.jpg"; filename*=UTF-8''a.exe`, "x") + formEnd, errForm},
		"filename* first":              {part(disposition+`; filename*=UTF-8''a.exe; filename="a.jpg"`, "x") + formEnd, errForm},
		"two file names":               {part(disposition+`; filename="a.jpg"; filename="a.exe"`, "x") + formEnd, errForm},
		"a name without quotes":        {part(disposition+`; filename=a.jpg`, "x") + formEnd, errForm},
		"a quoted pair":                {part(disposition+`; filename="a.exe\".jpg"`, "x") + formEnd, errForm},
		"a backslash":                  {part(disposition+`; filename="a.exe\.jpg"`, "x") + formEnd, errForm},
		"a folder":                     {part(disposition+`; filename="a.exe/.jpg"`, "x") + formEnd, errForm},
		"a null":                       {part(disposition+"; filename=\"a.exe\x00.jpg\"", "x") + formEnd, errForm},
		"a folded line":                {part("Content-Disposition: form-data;\r\n name=\"assetData\"; filename=\"a.jpg\"", "x") + formEnd, errForm},
		"a bare line feed":             {part("Content-Disposition: form-data; name=\"assetData\"; filename=\"a.jpg\"\nX: y", "x") + formEnd, errForm},
		"two dispositions":             {part(disposition+"; filename=\"a.jpg\"\r\n"+disposition+`; filename="a.exe"`, "x") + formEnd, errForm},
		"another header":               {part(disposition+"; filename=\"a.jpg\"\r\nContent-Transfer-Encoding: base64", "x") + formEnd, errForm},
		"the type first":               {part("Content-Type: image/jpeg\r\n"+disposition+`; filename="a.jpg"`, "x") + formEnd, errForm},
		"a type with parameters":       {part(disposition+"; filename=\"a.jpg\"\r\nContent-Type: text/plain; charset=utf-7", "x") + formEnd, errForm},
		"a field with a type":          {part("Content-Disposition: form-data; name=\"duration\"\r\nContent-Type: application/octet-stream", "x") + onePhoto + formEnd, errForm},
		"a field with a file's name":   {part(`Content-Disposition: form-data; name="duration"; filename="a.exe"`, "x") + onePhoto + formEnd, errForm},
		"the name of a field":          {field("filename", "a.exe") + onePhoto + formEnd, errForm},
		"hidden from the owner":        {field("visibility", "hidden") + onePhoto + formEnd, errForm},
		"a video of the owner's":       {field("livePhotoVideoId", "x") + onePhoto + formEnd, errForm},
		"what is said of it":           {field("metadata", "[]") + onePhoto + formEnd, errForm},
		"another case":                 {file("AssetData", "a.jpg", "x") + onePhoto + formEnd, errForm},
		"a name with brackets":         {field("duration[]", "1") + onePhoto + formEnd, errForm},
		"a long field":                 {field("duration", strings.Repeat("1", mostOfField+1)) + onePhoto + formEnd, errForm},
		"a long head":                  {file("assetData", strings.Repeat("a", mostOfPartHead)+".jpg", "x") + formEnd, errForm},
		"text before":                  {"hello\r\n" + onePhoto + formEnd, errForm},
		"a line before":                {"\r\n" + onePhoto + formEnd, errForm},
		"text behind":                  {onePhoto + formEnd + "x", errForm},
		"a form behind":                {onePhoto + formEnd + file("assetData", "a.exe", "x") + formEnd, errForm},
		"half a line end behind":       {onePhoto + "--" + testBoundary + "--\r", errForm},
		"no end":                       {onePhoto, errForm},
		"half a head":                  {onePhoto + "--" + testBoundary + "\r\nContent-Dis", errForm},
		"blanks behind the boundary":   {strings.Replace(onePhoto, testBoundary, testBoundary+" ", 1) + formEnd, errForm},
		"more behind the boundary":     {field("duration", "1\r\n--"+testBoundary+"x") + onePhoto + formEnd, errForm},
		"bare line feeds":              {strings.ReplaceAll(onePhoto+formEnd, "\r\n", "\n"), errForm},
		"a head that ends at the next": {"--" + testBoundary + "\r\nContent-Disposition: form-data; name=\"duration\"\r\n\r\n--" + testBoundary + "\r\nContent-Disposition: form-data; name=\"filename\"\r\n\r\na.exe\r\n" + onePhoto + formEnd, errForm},
	} {
		for reader, from := range map[string]io.Reader{
			"at once": strings.NewReader(each.body), "by the byte": iotest.OneByteReader(strings.NewReader(each.body)),
		} {
			got, _, err := readForm(t, from)
			if !errors.Is(err, each.want) {
				t.Errorf("%s, %s: %v", name, reader, err)
			}
			if strings.Contains(got, ".exe") || strings.Contains(got, formEnd) && strings.HasSuffix(each.body, "x") {
				t.Errorf("%s, %s: Immich gets %q", name, reader, got)
			}
		}
	}
}

func TestAFormThatBreaksOffIsNoWholeOne(t *testing.T) {
	whole := field("isFavorite", "false") + onePhoto + formEnd
	broken := errors.New("broken off")
	for end := 0; end < len(whole)-2; end += 3 { // the last line ending may be missing
		if _, _, err := readForm(t, io.MultiReader(strings.NewReader(whole[:end]), iotest.ErrReader(broken))); !errors.Is(err, broken) {
			t.Errorf("after %d bytes: %v", end, err)
		}
		if _, _, err := readForm(t, strings.NewReader(whole[:end])); !errors.Is(err, errForm) {
			t.Errorf("after %d bytes the end: %v", end, err)
		}
	}
}

func TestAFormIsNotHeld(t *testing.T) {
	types, err := readUploadTypes(tablePath)
	if err != nil {
		t.Fatal(err)
	}
	noise := rand.NewChaCha8([32]byte{1})
	size := int64(64 << 20)
	head, end, _ := strings.Cut(file("assetData", "a.mp4", "|")+formEnd, "|")
	form := newForm(io.MultiReader(strings.NewReader(head), io.LimitReader(noise, size), strings.NewReader(end)), testBoundary, types, func() {})
	buffer := make([]byte, 32<<10)
	var got int64
	for {
		count, err := form.Read(buffer)
		got += int64(count)
		if cap(form.store) > 2*formChunk {
			t.Fatalf("it holds %d bytes", cap(form.store))
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if got != size+int64(len(head)+len(end)) {
		t.Errorf("%d bytes", got)
	}
}

func TestOnlyAPlainBoundary(t *testing.T) {
	for text, want := range map[string]string{
		"multipart/form-data; boundary=" + testBoundary:                          testBoundary,
		"multipart/form-data; boundary=---------------------------9051914041544": "---------------------------9051914041544",
		"multipart/form-data; boundary=----geckoformboundaryc23":                 "----geckoformboundaryc23",
		"multipart/form-data;boundary=x":                                         "x",
		`multipart/form-data; boundary="x"`:                                      "",
		"multipart/form-data; boundary=x; boundary=y":                            "",
		"multipart/form-data; charset=utf-8; boundary=x":                         "",
		"multipart/form-data; boundary*=UTF-8''x":                                "",
		"multipart/form-data; boundary=" + strings.Repeat("x", 71):               "",
		"multipart/form-data":                                                    "",
		"multipart/form-data; boundary=":                                         "",
		"multipart/mixed; boundary=x":                                            "",
		"application/x-www-form-urlencoded":                                      "",
		"multipart/form-data; boundary=x\n":                                      "",
	} {
		if got := boundaryOf([]string{text}); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
	if boundaryOf(nil) != "" || boundaryOf([]string{"multipart/form-data; boundary=x", "multipart/form-data; boundary=x"}) != "" {
		t.Error("one type, and no more")
	}
}

func FuzzAForm(f *testing.F) {
	f.Add([]byte(onePhoto + formEnd))
	f.Add([]byte(field("duration", "1") + onePhoto + formEnd))
	types, err := readUploadTypes(tablePath)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := io.ReadAll(newForm(bytes.NewReader(body), testBoundary, types, func() {}))
		if !bytes.HasPrefix(body, got) || err == nil && len(got) != len(body) {
			t.Errorf("%q became %q (%v)", body, got, err)
		}
	})
}

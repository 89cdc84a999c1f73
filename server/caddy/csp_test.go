package main

import (
	"slices"
	"strings"
	"testing"
)

// The hashes come from openssl: printf %s TEXT | openssl dgst -sha256 -binary | base64
func TestInlineScripts(t *testing.T) {
	const one, two = "'sha256-HR7iaask9daLMRRskMI++QeJtjWDOjyPA6lGzYGzKW4='", "'sha256-iMrPAWirDC2X0OhZzLsM2MRIWSmepJGI4r7D8ZlwBOw='"
	for name, each := range map[string]struct {
		shell string
		want  []string
	}{
		"none":               {"<p>scripts</p>", nil},
		"two":                {"<script>one()</script><script type=module>two()</script>", []string{one, two}},
		"over lines":         {"<SCRIPT\n defer >one()</SCRIPT \n>", []string{one}},
		"a file":             {`<script src="/a.js"></script>`, nil},
		"an element like it": {"<scripted>one()</scripted>", nil},
		"never closed":       {"<script>one()", nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := inlineScripts(each.shell); !slices.Equal(got, each.want) {
				t.Errorf("%q gives %v, not %v", each.shell, got, each.want)
			}
		})
	}
}

func TestInlineScriptsSeeLinesAsABrowserDoes(t *testing.T) {
	want := inlineScripts("<script>\na\nb\n</script>")
	for _, end := range []string{"\r\n", "\r"} {
		if got := inlineScripts(strings.ReplaceAll("<script>\na\nb\n</script>", "\n", end)); !slices.Equal(got, want) {
			t.Errorf("%q gives %v, not %v", end, got, want)
		}
	}
}

func TestMapSources(t *testing.T) {
	any := []string{"https:"}
	for config, want := range map[string][]string{
		"":   mapHosts,
		"[]": mapHosts,
		"{}": mapHosts,
		`{"mapLightStyleUrl":"https://tiles.immich.cloud/v1/style/light.json","mapDarkStyleUrl":""}`:   mapHosts,
		`{"mapLightStyleUrl":"https://tiles.immich.cloud.example/","mapDarkStyleUrl":""}`:              any,
		`{"mapLightStyleUrl":"","mapDarkStyleUrl":"https://api.maptiler.com/maps/x/style.json?key=y"}`: any,
		`{"mapLightStyleUrl":"; script-src *"}`:                                                        any,
	} {
		if got := mapSources(config); !slices.Equal(got, want) {
			t.Errorf("%s gives %v, not %v", config, got, want)
		}
	}
}

func TestIsPage(t *testing.T) {
	for kind, want := range map[string]bool{
		"text/html": true, "Text/HTML; charset=utf-8": true, "application/xhtml+xml": true,
		"": false, "application/json": false, "text/javascript": false, "image/webp": false,
	} {
		if isPage(kind) != want {
			t.Errorf("isPage(%q) is not %v", kind, want)
		}
	}
}

func TestIsMaintenance(t *testing.T) {
	for _, each := range []struct {
		status   int
		location string
		want     bool
	}{
		{302, "/maintenance?continue=%2Fshare%2Fx", true},
		{307, "https://immich.example/maintenance", true},
		{200, "/maintenance", false},
		{302, "/maintenance-plan", false},
		{302, "/share/maintenance", false},
		{302, "", false},
		{302, "http://[", false},
	} {
		if isMaintenance(each.status, each.location) != each.want {
			t.Errorf("isMaintenance(%d, %q) is not %v", each.status, each.location, each.want)
		}
	}
}

func TestAPolicyNeverWidensScripts(t *testing.T) {
	policy := sources{scripts: []string{"'sha256-x'"}, data: []string{"https:"}, anyStyle: true}.String()
	for _, directive := range strings.Split(policy, "; ") {
		if strings.HasPrefix(directive, "script-src") && directive != "script-src 'self' 'wasm-unsafe-eval' 'sha256-x'" {
			t.Error(directive)
		}
	}
}

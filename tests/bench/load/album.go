package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

const (
	albumPhotos   = 500
	thumbnailSize = 20 << 10
)

func photoID(number int) string { return fmt.Sprintf("0a1b2c3d-0000-4000-8000-%012x", number) }

// albumBackend is an Immich with one link to 500 photos, which costs nothing.
func albumBackend(address string) error {
	type photo struct {
		ID        string `json:"id"`
		Type      string `json:"type"`
		IsTrashed bool   `json:"isTrashed"`
		MIME      string `json:"originalMimeType"`
		Name      string `json:"originalFileName"`
		Created   string `json:"fileCreatedAt"`
		Width     int    `json:"width"`
		Height    int    `json:"height"`
	}
	var photos []photo
	for number := range albumPhotos {
		photos = append(photos, photo{
			photoID(number), "IMAGE", false, "image/jpeg", fmt.Sprintf("IMG_%d.jpg", number), "2026-05-01T10:00:00.000Z", 4000, 3000,
		})
	}
	link, err := json.Marshal(map[string]any{
		"id": photoID(9999), "key": albumKey, "type": "INDIVIDUAL", "assets": photos, "allowDownload": true, "showMetadata": true,
		"expiresAt": nil, "description": "", "password": nil,
	})
	if err != nil {
		return err
	}
	thumbnail, page := make([]byte, thumbnailSize), []byte("<!doctype html>"+strings.Repeat("<p>Immich</p>\n", 600))
	server := &http.Server{
		Addr: address, ReadHeaderTimeout: patience,
		Handler: http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
			kind, body := "application/json", []byte(`{"major":3,"minor":1,"patch":0}`)
			switch path := request.URL.Path; {
			case path == "/api/shared-links/me":
				body = link
			case strings.HasSuffix(path, "/thumbnail"):
				kind, body = "image/webp", thumbnail
			case !strings.HasPrefix(path, "/api/"):
				kind, body = "text/html", page
			}
			answer.Header().Set("Content-Type", kind)
			_, _ = answer.Write(body)
		}),
	}
	return server.ListenAndServe()
}

// albumKey is long enough for whoever checks the length of keys.
const albumKey = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_abc"

// A peer for benchmarks: Go, govips and libvips, with govips' own encoder settings.
//
//	GET /{width}/{quality}/{format}?url=…
//
// It fetches the original within the request, as imgproxy does, and keeps nothing.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/davidbyttow/govips/v2/vips"
)

func main() {
	vips.LoggingSettings(nil, vips.LogLevelError)
	vips.Startup(&vips.Config{ConcurrencyLevel: 1})
	http.HandleFunc("/", func(answer http.ResponseWriter, request *http.Request) {
		kind, body, err := render(request)
		if err != nil {
			http.Error(answer, err.Error(), http.StatusBadGateway)
			return
		}
		answer.Header().Set("Content-Type", "image/"+kind)
		answer.Header().Set("Content-Length", strconv.Itoa(len(body))) // the benchmark's client reads no chunks
		answer.Write(body)
	})
	log.Fatal(http.ListenAndServe(os.Args[1], nil))
}

func render(request *http.Request) (string, []byte, error) {
	parts := strings.Split(strings.Trim(request.URL.Path, "/"), "/")
	if len(parts) != 3 {
		return "", nil, fmt.Errorf("expected /width/quality/format, not %s", request.URL.Path)
	}
	width, _ := strconv.Atoi(parts[0])
	quality, _ := strconv.Atoi(parts[1])
	original, err := fetch(request.URL.Query().Get("url"))
	if err != nil {
		return "", nil, err
	}
	image, err := vips.NewThumbnailFromBuffer(original, width, 10_000, vips.InterestingNone)
	if err != nil {
		return "", nil, err
	}
	defer image.Close()
	body, err := encode(image, parts[2], quality)
	return parts[2], body, err
}

func encode(image *vips.ImageRef, kind string, quality int) (body []byte, err error) {
	switch kind {
	case "jpeg":
		params := vips.NewJpegExportParams()
		params.Quality = quality
		body, _, err = image.ExportJpeg(params)
	case "webp":
		params := vips.NewWebpExportParams()
		params.Quality = quality
		body, _, err = image.ExportWebp(params)
	case "avif":
		params := vips.NewAvifExportParams()
		params.Quality = quality
		body, _, err = image.ExportAvif(params)
	default:
		err = fmt.Errorf("expected jpeg, webp or avif, not %s", kind)
	}
	return body, err
}

func fetch(address string) ([]byte, error) {
	answer, err := http.Get(address)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s for %s", answer.Status, address)
	}
	return io.ReadAll(answer.Body)
}

# Varnish in front of imgproxy. Needs Varnish 6.6 or later and the xkey module (Debian: varnish, varnish-modules).
#
# imgproxy's side of it:
#
#     [[downstream]]
#     kind = "varnish"
#     url = "http://127.0.0.1:80/"       # this Varnish; one section for each, where there are several
#     token_file = "/etc/imgproxy/varnish.token"
#
# Set the same token in varnishd's environment as IMGPROXY_PURGE_TOKEN (systemd: Environment= in an override). Without
# it, PURGE is allowed by address alone.
#
# Answers are kept for as long as CDN-Cache-Control says. imgproxy removes them by PURGE with the tags in `xkey`. Nothing
# is served or revalidated after its time: no grace, no keep.
vcl 4.1;

import std;
import xkey;

backend imgproxy {
    .host = "127.0.0.1";
    .port = "8080";
    .connect_timeout = 2s;
    # Longer than a fetch (10 s), a wait in the queue (5 s) and a render (10 s) together.
    .first_byte_timeout = 30s;
    .between_bytes_timeout = 10s;
    .max_connections = 500;
    # varnishd ends idle connections after its parameter backend_idle_timeout (60 s). Keep it shorter than imgproxy's.
}

acl purgers {
    "localhost";
    "127.0.0.1";
    "::1";
}

sub vcl_recv {
    if (req.method == "PURGE") {
        if (client.ip !~ purgers) {
            return (synth(403, "Forbidden"));
        }
        # A match, because a variable that is not set does not equal "".
        if (std.getenv("IMGPROXY_PURGE_TOKEN") ~ "."
            && req.http.Authorization != "Bearer " + std.getenv("IMGPROXY_PURGE_TOKEN")) {
            return (synth(403, "Forbidden"));
        }
        if (!req.http.xkey-purge) {
            return (synth(400, "xkey-purge is missing"));
        }
        # A hard purge: after a softpurge a revoked picture could be served once more.
        return (synth(200, "Purged " + xkey.purge(req.http.xkey-purge)));
    }

    # The webhook is public. The other admin routes are not. Varnish sends a body again only if it has kept it: when the
    # connection that it took from its pool was just being closed. 1 MB is [webhook] max_body_bytes.
    if (req.url ~ "^/-/webhooks/") {
        if (!std.cache_req_body(1MB)) {
            return (synth(413, "Content Too Large"));
        }
        return (pass);
    }
    if (req.url ~ "^/(-|api/v1)/") {
        return (synth(404, "Not Found"));
    }
    if (req.method != "GET" && req.method != "HEAD") {
        return (synth(405, "Method Not Allowed"));
    }

    # An image depends on neither. The URL stays as it is, because its signature covers every byte.
    unset req.http.Cookie;
    unset req.http.Authorization;

    # An answer has an ETag and no Last-Modified. Varnish would compare this date with the time of its own fetch, and
    # could so answer 304 to a client whose copy was purged.
    unset req.http.If-Modified-Since;

    # imgproxy distinguishes three kinds of Accept headers. So at most three answers of a URL are kept.
    if (req.http.Accept ~ "image/avif" && req.http.Accept !~ "image/avif *; *q=0(\.0*)? *(,|$)") {
        set req.http.Accept = "image/avif,image/webp";
    } elsif (req.http.Accept ~ "image/webp" && req.http.Accept !~ "image/webp *; *q=0(\.0*)? *(,|$)") {
        set req.http.Accept = "image/webp";
    } else {
        unset req.http.Accept;
    }
    if (req.http.Save-Data !~ "(?i)^on") {
        unset req.http.Save-Data;
    }
    return (hash);
}

sub vcl_hash {
    hash_data(req.url);
    # With Vary alone, requests for different formats of one URL would wait for each other's fetch.
    if (req.url ~ "[?&]auto=[^&]*format") {
        hash_data(req.http.Accept);
    }
    return (lookup);
}

sub vcl_backend_response {
    # A stale answer could be a revoked picture.
    set beresp.grace = 0s;
    set beresp.keep = 0s;
    # RFC 9213: CDN-Cache-Control is for caches that are purged, like this one. Cache-Control is for browsers.
    if (beresp.http.CDN-Cache-Control ~ "(?i)no-store|no-cache|private") {
        set beresp.uncacheable = true;
        set beresp.ttl = 10s;
    } elsif (beresp.http.CDN-Cache-Control ~ "(?i)max-age=\d+") {
        set beresp.ttl = std.duration(regsub(beresp.http.CDN-Cache-Control, "(?i)^.*max-age=(\d+).*$", "\1s"), 0s);
    }
    # An answer without tags cannot be purged, so it is not kept for long.
    if (!beresp.http.xkey && beresp.ttl > 60s) {
        set beresp.ttl = 60s;
    }
}

sub vcl_deliver {
    # max-age of browsers counts from here, because this cache is purged.
    unset resp.http.Age;
    unset resp.http.CDN-Cache-Control;
    # Remove these lines if another CDN in front purges by these headers.
    unset resp.http.xkey;
    unset resp.http.Surrogate-Key;
    unset resp.http.Cache-Tag;

    unset resp.http.X-Varnish;
    unset resp.http.Via;
    # RFC 9211: each cache adds itself at the end.
    if (obj.hits > 0) {
        set resp.http.Cache-Status = resp.http.Cache-Status + ", varnish; hit";
    } else {
        set resp.http.Cache-Status = resp.http.Cache-Status + ", varnish; fwd=miss";
    }
}

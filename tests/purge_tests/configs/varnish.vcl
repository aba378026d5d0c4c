# Varnish as its manual shows it: PURGE and BAN of a URL, PURGE of tags with xkey. Grace and streaming are its defaults.
vcl 4.1;

import xkey;

backend origin {
    .host = "127.0.0.1";
    .port = "@ORIGIN_PORT@";
}

sub vcl_recv {
    if (req.method == "PURGE" && req.http.xkey-purge) {
        return (synth(200, "Purged " + xkey.purge(req.http.xkey-purge)));
    }
    if (req.method == "PURGE") {
        return (purge);
    }
    if (req.method == "BAN") {
        ban("obj.http.X-Path == " + regsub(req.url, "\?.*$", ""));
        return (synth(200, "Banned"));
    }
}

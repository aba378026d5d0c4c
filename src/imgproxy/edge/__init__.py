"""HTTP: routes, headers, errors and logs. The only room that knows aiohttp, beside the embedded library."""

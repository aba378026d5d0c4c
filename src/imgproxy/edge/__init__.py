"""HTTP: routes, headers, errors and logs. Only this room and the embedded library import aiohttp's server."""

"""Hits and overload refusals, answered below aiohttp's request handling. `app`, `parts` and `server` import it."""

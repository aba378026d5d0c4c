"""Hits and overload refusals, answered below aiohttp's request handling. Only `edge/app.py` imports it."""

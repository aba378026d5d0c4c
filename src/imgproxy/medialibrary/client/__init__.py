"""The typed client of the Media Library API: calls, retries, tokens, and originals fetched into files."""

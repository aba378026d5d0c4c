"""From an image request to its variant: originals, freshness, renders, warming."""

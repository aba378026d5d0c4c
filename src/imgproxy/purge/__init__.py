"""Purging: from an entry's id, a key or a webhook to the certainty that its pictures are gone."""

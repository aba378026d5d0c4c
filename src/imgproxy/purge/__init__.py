"""Purges: from the id of an entry, a key or a webhook to a receipt which says that its pictures are gone."""

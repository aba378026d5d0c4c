"""The two processes behind Content Credentials: one builds manifests, the other one holds the key and signs."""

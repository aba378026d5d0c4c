"""The shared store: originals and variants in object storage, so that an edge takes what another one has made."""

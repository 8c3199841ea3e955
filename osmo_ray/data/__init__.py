"""Versioned datasets as pure values: chunks, packs, manifests, versions, merges, garbage, shard plans."""

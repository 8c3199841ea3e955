"""Bytes over fsspec: any store, the same verbs."""

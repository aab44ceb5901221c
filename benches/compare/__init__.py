"""Isthmus beside its peers, measured in interleaved pairs. See benches/README.md."""
